// Calls every outbound function of the official Node SDK, as its users do, and prints what came of each as one line of
// JSON: {name: {ok, code, data, errorCode}}. Where and with what comes from the environment (tests/vault/test_sdk_node.py).
import DescopeClient from "@descope/node-sdk";

const {URL, PROJECT, KEY, ACCESS_TOKEN, TOKEN_URL, REFRESH_TOKEN} = process.env;
const said = {};

async function say(name, call) {
  const {ok, code, data, error} = await call;
  said[name] = {ok, code: code ?? null, data: data ?? null, errorCode: error?.errorCode ?? null};
  return data;
}

const sdk = DescopeClient({projectId: PROJECT, managementKey: KEY, baseUrl: URL});
const outbound = sdk.management.outboundApplication;

await say("createApplication", outbound.createApplication({
  id: "mail", name: "Mail", clientId: "me", clientSecret: "CANARY", tokenUrl: TOKEN_URL,
  tokenUrlParams: [{key: "a", value: "1"}],
}));
await say("createApiKeyApplication", outbound.createApplication({id: "keys", name: "Keys", appType: "apikey"}));
await say("createApplicationByTemplate", outbound.createApplicationByTemplate({
  templateId: "github", id: "gh", clientId: "me", clientSecret: "CANARY", overrides: {name: "Our GitHub"},
}));
await say("createApplicationTwice", outbound.createApplication({id: "mail", name: "Other"}));
await say("updateApplication", outbound.updateApplication({
  id: "mail", name: "Mail 2", clientId: "me", tokenUrl: TOKEN_URL, description: "changed",
}));
await say("loadApplication", outbound.loadApplication("mail"));
await say("loadAllApplications", outbound.loadAllApplications());

await say("uploadUserToken", outbound.uploadUserToken({
  appId: "mail", userId: "alice", refreshToken: REFRESH_TOKEN, scopes: ["a"], verifyRefresh: true,
}));
await say("uploadTenantToken", outbound.uploadTenantToken({
  appId: "mail", tenantId: "acme", accessToken: "AT-acme", scopes: ["a"],
}));
await say("batchUploadUserTokens", outbound.batchUploadUserTokens([
  {appId: "mail", userId: "bob", accessToken: "AT-bob"}, {appId: "mail", userId: "carol", accessToken: "AT-carol"},
]));
await say("batchUploadTenantTokens", outbound.batchUploadTenantTokens([
  {appId: "mail", tenantId: "umbrella", accessToken: "AT-umbrella"},
]));
await say("batchWithFailures", outbound.batchUploadUserTokens([{appId: "nothing", userId: "x", accessToken: "AT-x"}]));
await say("uploadUserApiKey", outbound.uploadUserApiKey("keys", "alice", "K-alice"));
await say("uploadTenantApiKey", outbound.uploadTenantApiKey("keys", "acme", "K-acme"));

await say("fetchToken", outbound.fetchToken("mail", "alice"));
await say("fetchTokenForced", outbound.fetchToken("mail", "alice", undefined, {
  forceRefresh: true, withRefreshToken: true,
}));
await say("fetchTokenByScopes", outbound.fetchTokenByScopes("mail", "alice", ["a"]));
const tenants = await say("fetchTenantToken", outbound.fetchTenantToken("mail", "acme"));
await say("fetchTenantTokenByScopes", outbound.fetchTenantTokenByScopes("mail", "acme", ["a"]));
await say("fetchTokenApiKey", outbound.fetchToken("keys", "alice"));
await say("fetchTokenOfNobody", outbound.fetchToken("mail", "nobody"));
await say("listAppsWithUserToken", outbound.listAppsWithUserToken("alice"));

// The by-token pattern of mcp-express: no management key, the access token set by a hook.
const byToken = DescopeClient({
  projectId: PROJECT,
  baseUrl: URL,
  hooks: {
    beforeRequest: (config) => {
      config.headers = {...config.headers, Authorization: `Bearer ${PROJECT}:${ACCESS_TOKEN}`};
      return config;
    },
  },
}).management.outboundApplication;
await say("fetchTokenByToken", byToken.fetchToken("mail", "alice"));
await say("fetchTokenByTokenOfBob", byToken.fetchToken("mail", "bob"));
await say("manageByToken", byToken.loadAllApplications());

await say("connect", sdk.outbound.connect("gh", {}, ACCESS_TOKEN));
await say("connectByKey", sdk.outbound.connect("mail", {}, KEY));

await say("deleteTokenById", outbound.deleteTokenById(tenants.id));
await say("fetchTenantTokenDeleted", outbound.fetchTenantToken("mail", "acme"));
// The calls of the SDK's README, which send the literal text "undefined".
await say("deleteUserTokensOfUser", outbound.deleteUserTokens(undefined, "alice"));
await say("listAppsOfDeleted", outbound.listAppsWithUserToken("alice"));
await say("deleteUserTokensOfApp", outbound.deleteUserTokens("mail"));
await say("fetchTokenOfBobDeleted", outbound.fetchToken("mail", "bob"));
await say("deleteNothing", outbound.deleteUserTokens());
await say("deleteApplication", outbound.deleteApplication("mail"));
await say("loadApplicationDeleted", outbound.loadApplication("mail"));

console.log(JSON.stringify({said, functions: Object.keys(outbound)}));
process.exit(0); // the SDK keeps a timer
