-- The caller's RS256 JWT: libcrypto verifies it once, then a cache of each worker's knows it until it expires.
--
-- nginx has libcrypto loaded already; Debian has no lua-resty-jwt. Any doubt is a refusal: `accepts` returns false.

local ffi = require "ffi"
local cjson = require "cjson.safe"
local lrucache = require "resty.lrucache"
local decode_base64url = require("ngx.base64").decode_base64url

ffi.cdef [[
typedef struct bio_st BIO;
typedef struct evp_pkey_st EVP_PKEY;
typedef struct evp_md_st EVP_MD;
typedef struct evp_md_ctx_st EVP_MD_CTX;
BIO *BIO_new_mem_buf(const void *buf, int len);
int BIO_free(BIO *bio);
EVP_PKEY *PEM_read_bio_PUBKEY(BIO *bio, EVP_PKEY **key, void *callback, void *argument);
const EVP_MD *EVP_sha256(void);
EVP_MD_CTX *EVP_MD_CTX_new(void);
int EVP_MD_CTX_reset(EVP_MD_CTX *context);
int EVP_DigestVerifyInit(EVP_MD_CTX *context, void **key_context, const EVP_MD *digest, void *engine, EVP_PKEY *key);
int EVP_DigestVerify(EVP_MD_CTX *context, const char *signature, size_t signature_length,
                     const char *data, size_t data_length);
void ERR_clear_error(void);
]]
local libcrypto = ffi.C

local Verifier = {}
Verifier.__index = Verifier

-- A verifier of the issuer's JWTs; `options`: key_file (PEM), issuer, audience, cached_callers.
function Verifier.new(options)
  local file = assert(io.open(options.key_file))
  local pem = file:read("*a")
  file:close()
  local bio = libcrypto.BIO_new_mem_buf(pem, #pem)
  local key = libcrypto.PEM_read_bio_PUBKEY(bio, nil, nil, nil)
  libcrypto.BIO_free(bio)
  assert(key ~= nil, "no public key in " .. options.key_file)
  return setmetatable({
    key = key,
    context = libcrypto.EVP_MD_CTX_new(),
    issuer = options.issuer,
    audience = options.audience,
    expiries = assert(lrucache.new(options.cached_callers)),
  }, Verifier)
end

-- Whether the Authorization field `authorization` holds a JWT that the issuer signed for this audience.
function Verifier:accepts(authorization)
  if not authorization then return false end
  local expires_at = self.expiries:get(authorization)
  if not expires_at then
    expires_at = self:verify(authorization)
    if not expires_at then return false end
    self.expiries:set(authorization, expires_at)
  end
  return expires_at > ngx.time()
end

-- When the JWT expires; nil where anything about it is wrong.
function Verifier:verify(authorization)
  local signed, head, claims, signature = authorization:match("^Bearer (([^.]+)%.([^.]+))%.([^.]+)$")
  if not signed then return nil end
  head = cjson.decode(decode_base64url(head) or "")
  claims = cjson.decode(decode_base64url(claims) or "")
  signature = decode_base64url(signature)
  if type(head) ~= "table" or type(claims) ~= "table" or not signature then return nil end
  if head.alg ~= "RS256" or not self:signed(signed, signature) then return nil end
  if claims.iss ~= self.issuer or claims.aud ~= self.audience or type(claims.exp) ~= "number" then return nil end
  return claims.exp
end

function Verifier:signed(data, signature)
  local context = self.context
  libcrypto.EVP_MD_CTX_reset(context)
  local genuine = libcrypto.EVP_DigestVerifyInit(context, nil, libcrypto.EVP_sha256(), nil, self.key) == 1
    and libcrypto.EVP_DigestVerify(context, signature, #signature, data, #data) == 1
  if not genuine then libcrypto.ERR_clear_error() end -- else nginx finds it and takes it for its own
  return genuine
end

return Verifier
