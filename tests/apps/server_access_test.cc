// Tests who may ask: keys, hosts, and pages of other sites.
#include <gtest/gtest.h>

#include "apps/server/access.h"
#include "apps/server/api_error.h"
#include "apps/server/identifiers.h"
#include "base/error.h"

namespace nostos::server {
namespace {

using Headers = std::map<std::string, std::string>;

/// \return the status that `check` refuses a request with those headers with, or 0.
template <class Check>
int refusal(Headers headers, const Check& check) {
  HttpRequest request;
  request.method = "GET";
  request.headers = std::move(headers);
  try {
    check(request);
    return 0;
  } catch (const ApiError& error) {
    return error.status;
  }
}

TEST(ServerAccess, SchemesOfKeysHaveNoCase) {
  const auto given = [](Headers headers) {
    return refusal(std::move(headers), [](const HttpRequest& request) { check_key("a secret", request); });
  };
  const std::string login = to_base64("user:a secret"), plain = to_base64("a secret");
  for (const char* scheme : {"Bearer ", "bearer ", "BEARER ", "Bearer   "})
    EXPECT_EQ(given({{"authorization", scheme + std::string("a secret")}}), 0) << scheme;
  for (const char* scheme : {"Basic ", "basic ", "BASIC  "})
    EXPECT_EQ(given({{"authorization", scheme + login}}), 0) << scheme;
  const std::vector<std::string> wrong{"",
                                       "Bearer",
                                       "Bearer A secret",
                                       "Bearera secret",
                                       "Bearer: a secret",
                                       "Token a secret",
                                       "a secret",
                                       "Basic a secret",
                                       "Bearer " + login,
                                       "Basic " + plain,
                                       "Digest " + login,
                                       "Bearer a secret, Bearer a secret"};
  for (const std::string& field : wrong) EXPECT_EQ(given({{"authorization", field}}), 401) << field;
  for (const char* field : {"nostos_key=a%20secret", "x=y; nostos_key=a secret", "x;nostos_key=a secret;z"})
    EXPECT_EQ(given({{"cookie", field}}), 0) << field;
  for (const char* field :
       {"nostos_key", "nostos_key=", "Nostos_key=a secret", "xnostos_key=a secret", "nostos_key=a%2"})
    EXPECT_EQ(given({{"cookie", field}}), 401) << field;
}

const std::vector<Origin> kNobody;

TEST(ServerAccess, PagesAreTheServersOwn) {
  const auto passes = [](bool by_any_name, const char* origin, const char* host) {
    const auto check = [&](const HttpRequest& request) { check_origin(by_any_name, kNobody, request); };
    return refusal({{"origin", origin}, {"host", host}}, check) == 0;
  };
  EXPECT_TRUE(passes(false, "", "anything"));
  EXPECT_TRUE(passes(false, "http://127.0.0.1:30000", "127.0.0.1:30000"));
  EXPECT_TRUE(passes(false, "http://localhost:30000", "LOCALHOST.:30000"));
  EXPECT_TRUE(passes(false, "http://[::1]:30000", "[::1]:30000"));
  EXPECT_FALSE(passes(false, "http://localhost:8000", "localhost:30000"));
  EXPECT_FALSE(passes(false, "http://rebound.example", "rebound.example"));
  EXPECT_TRUE(passes(true, "https://draw.example", "draw.example"));
  EXPECT_TRUE(passes(true, "https://draw.example", "draw.example:443"));
  EXPECT_FALSE(passes(true, "https://evil.example", "draw.example"));
  for (const char* odd : {"null", "*", "draw.example", "https://", "https://draw.example/", "https://x@draw.example"})
    EXPECT_FALSE(passes(true, odd, "draw.example")) << odd;
}

// A page whose name was made to lead to this machine reads without an Origin.
TEST(ServerAccess, WithoutAKeyTheHostIsNoName) {
  const auto passes = [](bool by_any_name, const char* host) {
    return refusal({{"host", host}, {"x-forwarded-host", "localhost"}, {"forwarded", "host=localhost"}},
                   [&](const HttpRequest& request) { check_host(by_any_name, request); }) == 0;
  };
  for (const char* host :
       {"127.0.0.1:30000", "192.168.0.7", "localhost", "Localhost:30000", "localhost.", "localhost:", "[::1]:30000"})
    EXPECT_TRUE(passes(false, host)) << host;
  for (const char* host : {"rebound.example", "rebound.example:30000", "127.0.0.1.example", "localhost.example", "",
                           "[evil.example", "[::1].evil.example", "1.2.3", "127.0.0.1:x"})
    EXPECT_FALSE(passes(false, host)) << host;
  EXPECT_TRUE(passes(true, "draw.example"));
}

TEST(ServerAccess, NamedOriginsAreLetIn) {
  const std::vector<Origin> allowed{read_allowed_origin("http://localhost:3000"),
                                    read_allowed_origin("https://App.Example")};
  const auto passes = [&](const char* origin) {
    const auto check = [&](const HttpRequest& request) { check_origin(false, allowed, request); };
    return refusal({{"origin", origin}, {"host", "localhost:30000"}}, check) == 0;
  };
  for (const char* origin :
       {"http://localhost:3000", "https://app.example", "https://app.example:443", "http://localhost:30000"})
    EXPECT_TRUE(passes(origin)) << origin;
  for (const char* origin :
       {"null", "*", "http://localhost:3001", "https://localhost:3000", "http://app.example",
        "https://app.example.evil", "https://evil.app.example", "https://app.example:8443", "http://127.0.0.1:3000"})
    EXPECT_FALSE(passes(origin)) << origin;
}

TEST(ServerAccess, OriginsOfManySitesCannotBeNamed) {
  const auto message = [](const char* flag) -> std::string {
    try {
      read_allowed_origin(flag);
      return "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
      return error.what();
    }
  };
  for (const char* many : {"*", "null", "https://*.example"})
    EXPECT_NE(message(many).find("is no single site"), std::string::npos) << message(many);
  for (const char* none :
       {"", "localhost:3000", "http://localhost:3000/", "http://a.example:0", "http://user@localhost", "http://"})
    EXPECT_NE(message(none).find("is no origin"), std::string::npos) << message(none);
}

std::string field(const HttpHeaders& headers, const std::string& name) {
  std::string found;
  for (const auto& [known, value] : headers) found += known == name ? value : "";
  return found;
}

TEST(ServerAccess, AnswersSayWhoMayReadThem) {
  const std::vector<Origin> allowed{read_allowed_origin("http://localhost:3000")};
  HttpRequest request;
  EXPECT_TRUE(cross_origin_headers(kNobody, request).empty());
  EXPECT_EQ(cross_origin_headers(allowed, request), (HttpHeaders{{"Vary", "Origin"}}));
  request.headers["origin"] = "null";
  EXPECT_EQ(cross_origin_headers(allowed, request), (HttpHeaders{{"Vary", "Origin"}}));
  request.headers["origin"] = "http://localhost:3000";
  const HttpHeaders headers = cross_origin_headers(allowed, request);
  EXPECT_EQ(field(headers, "Vary"), "Origin");
  EXPECT_EQ(field(headers, "Access-Control-Allow-Origin"), "http://localhost:3000");
  EXPECT_EQ(field(headers, "Access-Control-Allow-Credentials"), "");
  EXPECT_NE(field(headers, "Access-Control-Expose-Headers").find("X-Request-Id"), std::string::npos);
}

TEST(ServerAccess, PreflightsAreToldWhatThePathTakes) {
  HttpRequest request;
  request.method = "OPTIONS";
  EXPECT_FALSE(is_preflight(request));
  request.headers["origin"] = "http://localhost:3000";
  EXPECT_FALSE(is_preflight(request));
  request.headers["access-control-request-method"] = "POST";
  EXPECT_TRUE(is_preflight(request));
  EXPECT_EQ(field(preflight_headers(request, "POST"), "Access-Control-Allow-Headers"), "");
  request.headers["access-control-request-headers"] = "authorization,x-stainless-os";
  const HttpHeaders headers = preflight_headers(request, "POST, GET, HEAD, OPTIONS");
  EXPECT_EQ(field(headers, "Access-Control-Allow-Headers"), "authorization,x-stainless-os");
  EXPECT_EQ(field(headers, "Access-Control-Allow-Methods"), "POST, GET, HEAD, OPTIONS");
  EXPECT_EQ(field(headers, "Access-Control-Max-Age"), "600");
  request.method = "GET";
  EXPECT_FALSE(is_preflight(request));
}

}  // namespace
}  // namespace nostos::server
