// The caller's JWT verified by jose, the request sent on by http-proxy-middleware, a line of morgan's for each.
//
// node server.mjs OPTIONS: a JSON file with port, upstream, token, issuer, audience, jwks_file, cached_callers, record,
// and cert, key, ca where it listens and calls with TLS.

import { createWriteStream, readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";

import express from "express";
import { createProxyMiddleware } from "http-proxy-middleware";
import { createLocalJWKSet, jwtVerify } from "jose";
import morgan from "morgan";

const options = JSON.parse(readFileSync(process.argv[2]));
const keys = createLocalJWKSet(JSON.parse(readFileSync(options.jwks_file)));
const rules = { algorithms: ["RS256"], issuer: options.issuer, audience: options.audience, requiredClaims: ["exp"] };
const expiries = new Map(); // verified tokens, the oldest first; exp in seconds

async function verify(request, response, next) {
  const [scheme, token] = (request.headers.authorization ?? "").split(" ");
  try {
    if (scheme !== "Bearer" || !token) throw new Error("no bearer token");
    if (!(expiries.get(token) > Date.now() / 1000)) {
      const { payload } = await jwtVerify(token, keys, rules);
      if (expiries.size >= options.cached_callers) expiries.delete(expiries.keys().next().value);
      expiries.set(token, payload.exp);
    }
  } catch {
    response.sendStatus(401);
    return;
  }
  next();
}

const tls = options.cert && {
  cert: readFileSync(options.cert),
  key: readFileSync(options.key),
  ca: readFileSync(options.ca),
};
const proxy = createProxyMiddleware({
  target: options.upstream,
  agent: tls ? new https.Agent({ keepAlive: true, ca: tls.ca }) : new http.Agent({ keepAlive: true }),
  on: {
    proxyReq: (request) => request.setHeader("Authorization", `Bearer ${options.token}`),
  },
});

const line = ':remote-addr [:date[iso]] ":method :url HTTP/:http-version" status=:status :response-time';
const app = express();
app.disable("x-powered-by");
app.use(morgan(line, { stream: createWriteStream(options.record, { flags: "a" }) }));
app.use("/api", verify, proxy); // Express takes "/api" off

const server = tls ? https.createServer({ cert: tls.cert, key: tls.key }, app) : http.createServer(app);
server.keepAliveTimeout = 3_600_000;
server.listen({ port: options.port, host: "127.0.0.1", backlog: 4096 });
