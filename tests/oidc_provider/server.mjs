/**
 * A strict OAuth provider for the tests: npm's oidc-provider as one real process on 127.0.0.1.
 *
 * 1. Refresh tokens rotate at each use, and the use of a spent one revokes the whole grant.
 * 2. Nobody types: `login_hint` names the user, consent is given to all scopes asked for, PKCE is required.
 * 3. One JSON line on stdout tells {port, issuer}; the process ends with its standard input, so that no test leaves it behind.
 *
 * Environment: CLIENT_ID, CLIENT_SECRET, REDIRECT_URIS (JSON list), SCOPES (JSON list), ACCESS_TOKEN_SECONDS.
 * Beside the provider's own endpoints:
 *   GET  /me                         200 {sub, scope} for a live access token, else 401 (RFC 6750 section 3)
 *   POST /test/revoke-access-token   form field `token`: dead at once, though the clock still says it is valid
 *   GET  /test/stats                 exchanges by grant type, refusals by error, reuse detections, grants
 */

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';

import { Provider } from 'oidc-provider';

const environment = {
  clientId: process.env.CLIENT_ID ?? 'gateway',
  clientSecret: process.env.CLIENT_SECRET ?? 'not-a-secret-of-anyone',
  redirectUris: JSON.parse(process.env.REDIRECT_URIS ?? '["http://127.0.0.1/callback"]'),
  scopes: JSON.parse(process.env.SCOPES ?? '["contacts.read", "contacts.write"]'),
  accessTokenSeconds: Number(process.env.ACCESS_TOKEN_SECONDS ?? 3600),
};

const seen = { exchanges: {}, refusals: {}, reuseDetected: 0, grants: new Map(), me: { accepted: 0, rejected: 0 } };

function count(counters, name) {
  counters[name] = (counters[name] ?? 0) + 1;
}

function signingKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: 'test', use: 'sig', alg: 'RS256' };
}

function buildProvider(issuer) {
  const provider = new Provider(issuer, {
    clients: [{
      client_id: environment.clientId,
      client_secret: environment.clientSecret,
      token_endpoint_auth_method: 'client_secret_basic',
      grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
      redirect_uris: environment.redirectUris,
    }],
    cookies: { keys: [randomBytes(16).toString('hex')] },
    expiresWithSession: () => false,
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true },
      revocation: { enabled: true },
    },
    findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
    issueRefreshToken: (_ctx, client) => client.grantTypeAllowed('refresh_token'),
    jwks: { keys: [signingKey()] },
    pkce: { required: () => true },
    rotateRefreshToken: true,
    routes: { userinfo: '/userinfo' },
    scopes: ['openid', 'offline_access', ...environment.scopes],
    ttl: {
      AccessToken: environment.accessTokenSeconds,
      AuthorizationCode: 60,
      ClientCredentials: environment.accessTokenSeconds,
      Grant: 86400,
      IdToken: 3600,
      Interaction: 60,
      RefreshToken: 86400,
      Session: 86400,
    },
  });
  provider.on('grant.success', (ctx) => {
    count(seen.exchanges, ctx.oidc.params.grant_type);
    const grant = ctx.oidc.entities.Grant;
    if (grant) seen.grants.set(grant.jti, grant.accountId);
  });
  provider.on('grant.error', (ctx, error) => {
    count(seen.refusals, error.error);
    if (error.error_detail === 'refresh token already used') seen.reuseDetected += 1;
  });
  return provider;
}

/** Log in as `login_hint`, or grant what was asked for: whichever of the two the provider is waiting for. */
async function finishInteraction(provider, req, res) {
  const { prompt, params, session } = await provider.interactionDetails(req, res);
  if (prompt.name === 'login') {
    await provider.interactionFinished(req, res, { login: { accountId: params.login_hint, remember: false } });
    return;
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  await provider.interactionFinished(req, res, { consent: { grantId: await grant.save() } });
}

async function findToken(provider, value) {
  return (await provider.AccessToken.find(value)) ?? (await provider.ClientCredentials.find(value));
}

async function me(provider, req, res) {
  const [scheme, value] = (req.headers.authorization ?? '').split(' ');
  const token = scheme === 'Bearer' && value ? await findToken(provider, value) : undefined;
  if (!token) {
    seen.me.rejected += 1;
    res.setHeader('www-authenticate', 'Bearer realm="me", error="invalid_token"');
    answer(res, 401, { error: 'invalid_token' });
    return;
  }
  seen.me.accepted += 1;
  answer(res, 200, { sub: token.accountId ?? token.clientId, scope: token.scope ?? '' });
}

async function revokeAccessToken(provider, req, res) {
  let body = '';
  for await (const chunk of req) body += chunk;
  const token = await findToken(provider, new URLSearchParams(body).get('token') ?? '');
  await token?.destroy();
  answer(res, token ? 200 : 404, { revoked: Boolean(token) });
}

async function stats(provider, _req, res) {
  const grants = await Promise.all([...seen.grants].map(async ([id, user]) => (
    { id, user, alive: Boolean(await provider.Grant.find(id)) }
  )));
  answer(res, 200, {
    exchanges: seen.exchanges,
    refusals: seen.refusals,
    reuse_detected: seen.reuseDetected,
    grants,
    me: seen.me,
  });
}

function answer(res, status, value) {
  res.statusCode = status;
  res.setHeader('content-type', 'application/json');
  res.end(JSON.stringify(value));
}

const ROUTES = {
  'GET /me': me,
  'POST /test/revoke-access-token': revokeAccessToken,
  'GET /test/stats': stats,
};

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address();
  const issuer = `http://127.0.0.1:${port}`;
  const provider = buildProvider(issuer);
  const callback = provider.callback();
  server.on('request', (req, res) => {
    const path = req.url.split('?', 1)[0];
    const handler = path.startsWith('/interaction/') ? finishInteraction : ROUTES[`${req.method} ${path}`];
    if (!handler) {
      callback(req, res);
      return;
    }
    handler(provider, req, res).catch((error) => answer(res, 500, { error: String(error) }));
  });
  console.log(JSON.stringify({ port, issuer }));
});

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
