// Tests how the text of HTTP is read: heads, targets, hosts, origins, ranges, tags, and what proxies say.
#include <gtest/gtest.h>

#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "apps/server/http_head.h"
#include "apps/server/http_text.h"

namespace nostos::server {
namespace {

HttpRequest request_with(std::map<std::string, std::string> headers, std::string method = "GET") {
  HttpRequest request;
  request.method = std::move(method);
  request.headers = std::move(headers);
  return request;
}

TEST(HttpTargets, AreDecodedOnce) {
  HttpRequest request = request_with({});
  EXPECT_TRUE(read_target("/a%2Fb%2520c?x=1%262&y&=z&&q=a=b", request));
  EXPECT_EQ(request.path, "/a/b%20c");
  EXPECT_EQ(request.query["x"], "1&2");
  EXPECT_EQ(request.query["y"], "");
  EXPECT_EQ(request.query["q"], "a=b");
  for (const char* broken :
       {"", "a", "*", "/%", "/%4", "/%zz", "/%00", "/%ff", "/\xff", "/?%ff=1", "/a#b", "localhost:80"})
    EXPECT_FALSE(read_target(broken, request)) << broken;
}

TEST(HttpTargets, OfTheAbsoluteFormNameTheHost) {
  const std::vector<std::array<const char*, 3>> cases{{"http://Draw.Example:8080/a?b=c", "/a", "draw.example:8080"},
                                                      {"HTTPS://[::1]/v1/jobs", "/v1/jobs", "[::1]"},
                                                      {"http://draw.example", "/", "draw.example"},
                                                      {"http://draw.example?b=c", "/", "draw.example"},
                                                      {"http://localhost:/%41", "/A", "localhost"}};
  for (const auto& [target, path, host] : cases) {
    HttpRequest request = request_with({{"host", "other.example"}});
    EXPECT_TRUE(read_target(target, request)) << target;
    EXPECT_EQ(request.path, path) << target;
    EXPECT_EQ(request.header("host"), host) << target;
  }
  for (const char* broken : {"http://", "http:///a", "ftp://host/", "://host/", "http://user@host/", "http://host:0/",
                             "http://h/#a", "http://[::1/", "http:/host/"}) {
    HttpRequest request = request_with({});
    EXPECT_FALSE(read_target(broken, request)) << broken;
  }
}

TEST(HttpTargets, OfTheAsteriskFormAreForOptionsAlone) {
  for (const char* target : {"*", "http://draw.example"}) {
    HttpRequest request = request_with({}, "OPTIONS");
    EXPECT_TRUE(read_target(target, request));
    EXPECT_EQ(request.path, "*");
  }
  HttpRequest request = request_with({}, "OPTIONS");
  EXPECT_FALSE(read_target("*/", request));
}

TEST(HttpAuthorities, AreReadAsUrlsHaveThem) {
  const auto read = [](const char* text) {
    const auto authority = parse_authority(text);
    return authority ? to_string(*authority) + (authority->is_address ? " address" : "") : std::string("none");
  };
  EXPECT_EQ(read("localhost"), "localhost");
  EXPECT_EQ(read("LocalHost.:30000"), "localhost:30000");
  EXPECT_EQ(read("draw.example:"), "draw.example");
  EXPECT_EQ(read("draw.example:65535"), "draw.example:65535");
  EXPECT_EQ(read("draw.example:00080"), "draw.example:80");
  EXPECT_EQ(read("127.0.0.1:1"), "127.0.0.1:1 address");
  EXPECT_EQ(read("127.0.0.1.:1"), "127.0.0.1:1 address");
  EXPECT_EQ(read("[0:0::1]:30000"), "[::1]:30000 address");
  EXPECT_EQ(read("[::FFFF:1.2.3.4]"), "[::ffff:1.2.3.4] address");
  for (const char* name : {"127.1", "1.2.3.4.5", "256.1.1.1", "2130706433", "127.0.0.1.example", "%6cocalhost", "a_b"})
    EXPECT_EQ(read(name), name);  // that may lead anywhere
  for (const char* broken : {"",
                             ".",
                             ":80",
                             "user@localhost",
                             "user:key@localhost",
                             "localhost:0",
                             "localhost:65536",
                             "localhost:99999999999999999999",
                             "localhost:-1",
                             "localhost:8o",
                             "localhost:80:80",
                             "::1",
                             "[::1",
                             "::1]",
                             "[]",
                             "[::1]x",
                             "[localhost]",
                             "[fe80::1%25eth0]",
                             "[v1.x]",
                             "local host",
                             "localhost/",
                             "localhost?",
                             "localhost#",
                             "local\\host",
                             "l\xc3\xb6ve.example",
                             "a..",
                             "a,b c",
                             "%zz"})
    EXPECT_EQ(read(broken), "none") << broken;
}

TEST(HttpOrigins, HaveASchemeAHostAndAPort) {
  EXPECT_EQ(parse_origin("http://localhost:3000"), parse_origin("HTTP://LOCALHOST:3000"));
  EXPECT_EQ(parse_origin("http://draw.example"), parse_origin("http://draw.example:80"));
  EXPECT_EQ(parse_origin("https://draw.example"), parse_origin("https://draw.example.:443"));
  EXPECT_NE(parse_origin("https://draw.example"), parse_origin("http://draw.example"));
  EXPECT_NE(parse_origin("http://draw.example:81"), parse_origin("http://draw.example"));
  EXPECT_TRUE(parse_origin("moz-extension://0f3a9c5e"));
  for (const char* broken :
       {"", "null", "*", "http:", "http://", "draw.example", "//draw.example", "http://draw.example/", "http://a b",
        "http://user@draw.example", "1http://a", "h ttp://a", "http://a, http://b", "file://"})
    EXPECT_FALSE(parse_origin(broken)) << broken;
}

TEST(HttpOrigins, AreOfTheSiteThatHostNames) {
  const auto is_own = [](const char* origin, const char* host) { return is_site_of(*parse_origin(origin), host); };
  EXPECT_TRUE(is_own("http://localhost:30000", "LOCALHOST:30000"));
  EXPECT_TRUE(is_own("https://draw.example", "draw.example"));
  EXPECT_TRUE(is_own("https://draw.example", "Draw.Example.:443"));
  EXPECT_TRUE(is_own("http://draw.example", "draw.example:80"));
  EXPECT_TRUE(is_own("http://[::1]:30000", "[0::1]:30000"));
  EXPECT_FALSE(is_own("https://draw.example", "draw.example:80"));
  EXPECT_FALSE(is_own("http://draw.example", "draw.example:30000"));
  EXPECT_FALSE(is_own("http://draw.example:30000", "draw.example"));
  EXPECT_FALSE(is_own("http://draw.example", "draw.example.evil.example"));
  EXPECT_FALSE(is_own("http://draw.example", ""));
}

TEST(HttpForwarding, LinksBeginWithWhatTheClientUsed) {
  const auto base = [](std::map<std::string, std::string> headers) {
    headers.try_emplace("host", "inner:30000");
    return link_base(request_with(std::move(headers)));
  };
  EXPECT_EQ(base({}), "http://inner:30000");
  EXPECT_EQ(base({{"x-forwarded-proto", "https"}}), "https://inner:30000");
  EXPECT_EQ(base({{"x-forwarded-proto", "https, http"}}), "https://inner:30000");
  EXPECT_EQ(base({{"x-forwarded-proto", " HTTPS ,http"}}), "https://inner:30000");
  EXPECT_EQ(base({{"x-forwarded-proto", "http, https"}}), "http://inner:30000");
  for (const char* odd : {"", ",", ", https", "wss", "https http", "javascript"})
    EXPECT_EQ(base({{"x-forwarded-proto", odd}}), "http://inner:30000") << odd;
  EXPECT_EQ(base({{"x-forwarded-host", "Draw.Example, inner"}}), "http://draw.example");
  EXPECT_EQ(base({{"x-forwarded-host", "user@evil"}}), "http://inner:30000");
  EXPECT_EQ(base({{"x-forwarded-host", "a\"b"}}), "http://inner:30000");
  EXPECT_EQ(base({{"forwarded", "for=192.0.2.1;proto=https;host=draw.example, for=10.0.0.1;proto=http;host=inner"}}),
            "https://draw.example");
  EXPECT_EQ(base({{"forwarded", "For=\"[2001:db8::1]:47011\" ; Host=\"draw.example:8443\";Proto=HTTPS"}}),
            "https://draw.example:8443");
  EXPECT_EQ(base({{"forwarded", "for=\"a,b\";proto=https"}, {"x-forwarded-proto", "http"}}), "https://inner:30000");
  EXPECT_EQ(base({{"forwarded", "for=192.0.2.1, proto=http"}, {"x-forwarded-proto", "https"}}), "https://inner:30000");
  for (const char* odd : {"", ";;", "proto", "proto=", "host=\"", "host=\"\\", "=https", "proto=https=http"})
    EXPECT_TRUE(base({{"forwarded", odd}}).ends_with("://inner:30000")) << odd;
  EXPECT_EQ(link_base(request_with({})), "");
}

TEST(HttpCredentials, HaveASchemeWithoutRegardToCase) {
  EXPECT_EQ(parse_credentials("bEARER  a key ").scheme, "bearer");
  EXPECT_EQ(parse_credentials("bEARER  a key ").value, "a key");
  EXPECT_EQ(parse_credentials("Bearer").value, "");
  EXPECT_EQ(parse_credentials("").scheme, "");
}

TEST(HttpTags, AreFoundInLists) {
  using enum TagComparison;
  for (const char* field :
       {"*", " * ", "\"a\"", "\"b\", \"a\"", "\"b,\" ,, \"a\" , \"c\"", ", \"a\"", "\"b\",\"a\", broken"}) {
    EXPECT_TRUE(names_tag(field, "\"a\"", weak)) << field;
    EXPECT_TRUE(names_tag(field, "\"a\"", strong)) << field;
  }
  EXPECT_TRUE(names_tag("W/\"a\"", "\"a\"", weak));
  EXPECT_FALSE(names_tag("W/\"a\"", "\"a\"", strong));
  EXPECT_TRUE(names_tag("W/\"a\", \"a\"", "\"a\"", strong));
  for (const char* field :
       {"", "a", "\"", "\"a", "\"ab\"", "\"b, \"a\"", "w/\"a\"", "W/", "**", "\"\"", "'a'", "\"b\" x \"a\""})
    EXPECT_FALSE(names_tag(field, "\"a\"", weak)) << field;
}

TEST(HttpTags, DecideWhetherThereIsSomethingToSend) {
  const auto decide = [](std::map<std::string, std::string> headers) {
    return precondition(request_with(std::move(headers)), "\"a\"");
  };
  EXPECT_EQ(decide({}), Precondition::met);
  EXPECT_EQ(decide({{"if-none-match", "\"b\", W/\"a\""}}), Precondition::not_modified);
  EXPECT_EQ(decide({{"if-none-match", "*"}}), Precondition::not_modified);
  EXPECT_EQ(decide({{"if-none-match", "\"b\""}}), Precondition::met);
  EXPECT_EQ(decide({{"if-match", "\"a\""}}), Precondition::met);
  EXPECT_EQ(decide({{"if-match", "W/\"a\""}}), Precondition::failed);
  EXPECT_EQ(decide({{"if-match", "\"b\""}, {"if-none-match", "\"a\""}}), Precondition::failed);
}

TEST(HttpRanges, AreOneOfBytes) {
  using Range = std::optional<ByteRange>;
  const std::vector<std::pair<const char*, Range>> cases{
      {"bytes=0-7", ByteRange{0, 8}},       {"Bytes=0-7", ByteRange{0, 8}},
      {"bytes= 0-7 ,", ByteRange{0, 8}},    {"bytes=,,\t90-", ByteRange{90, 10}},
      {"bytes=90-1000", ByteRange{90, 10}}, {"bytes=90-99999999999999999999999", ByteRange{90, 10}},
      {"bytes=99-99", ByteRange{99, 1}},    {"bytes=-5", ByteRange{95, 5}},
      {"bytes=-1000", ByteRange{0, 100}},   {"bytes=-99999999999999999999999", ByteRange{0, 100}},
      {"bytes=100-", ByteRange{100, 0}},    {"bytes=99999999999999999999999-", ByteRange{100, 0}},
      {"bytes=-0", ByteRange{100, 0}}};
  for (const auto& [field, range] : cases) EXPECT_EQ(parse_range(field, 100), range) << field;
  for (const char* ignored :
       {"", "bytes", "bytes=", "bytes=-", "bytes=--5", "bytes=5", "bytes=5-2", "bytes=a-b", "bytes=0x1-2", "bytes=+1-2",
        "bytes=1-+2", "bytes=1 -2", "bytes=0-1,3-4", "bytes=0-1, bytes=3-4", "lines=1-2", "bytes 1-2", " bytes=1-2"})
    EXPECT_EQ(parse_range(ignored, 100), std::nullopt) << ignored;
  EXPECT_EQ(parse_range("bytes=-1", 0), (ByteRange{0, 0}));
  EXPECT_EQ(parse_range("bytes=0-", 0), (ByteRange{0, 0}));
}

TEST(HttpRanges, CountForGetAndForTheSameTag) {
  const auto asked = [](std::map<std::string, std::string> headers, const char* method = "GET") {
    headers.emplace("range", "bytes=1-2");
    return asked_range(request_with(std::move(headers), method), "\"a\"", 100).has_value();
  };
  EXPECT_TRUE(asked({}));
  EXPECT_FALSE(asked({}, "HEAD"));
  EXPECT_TRUE(asked({{"if-range", "\"a\""}}));
  for (const char* other : {"\"b\"", "W/\"a\"", "a", "*", "\"a\", \"b\"", "Wed, 21 Oct 2015 07:28:00 GMT"})
    EXPECT_FALSE(asked({{"if-range", other}})) << other;
}

/// \return the status that a head is refused with, or 0.
int refusal(const std::string& lines, HttpRequest* read = nullptr) {
  boost::beast::http::request_parser<boost::beast::http::string_body> parser;
  parser.eager(false);
  boost::system::error_code error;
  parser.put(boost::asio::buffer(lines + "\r\n"), error);
  EXPECT_FALSE(error) << error.message() << ": " << lines;
  HttpRequest request;
  const auto refused = read_head(parser.get(), request);
  if (read != nullptr) *read = request;
  return refused ? refused->status : 0;
}

TEST(HttpHeads, JoinRepeatedFields) {
  HttpRequest request;
  EXPECT_EQ(refusal("GET /a HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Proto: https\r\nX-FORWARDED-PROTO: http\r\n"
                    "Cookie: a=b\r\nCookie: c=d\r\nIf-None-Match: \"a\"\r\nif-none-match: \"b\"\r\n",
                    &request),
            0);
  EXPECT_EQ(request.method, "GET");
  EXPECT_EQ(request.path, "/a");
  EXPECT_EQ(request.header("x-forwarded-proto"), "https, http");
  EXPECT_EQ(request.header("cookie"), "a=b; c=d");
  EXPECT_EQ(request.header("if-none-match"), "\"a\", \"b\"");
}

TEST(HttpHeads, HaveSingleFieldsOnce) {
  for (const std::string name :
       {"Authorization", "Host", "Idempotency-Key", "If-Range", "Origin", "Range", "X-Client-Id"}) {
    const std::string once = "GET / HTTP/1.1\r\n" + std::string(name == "Host" ? "" : "Host: a\r\n") + name + ": a\r\n";
    EXPECT_EQ(refusal(once), 0) << name;
    EXPECT_EQ(refusal(once + name + ": a\r\n"), 400) << name;
  }
}

TEST(HttpHeads, NameAHost) {
  EXPECT_EQ(refusal("GET / HTTP/1.1\r\n"), 400);
  EXPECT_EQ(refusal("GET / HTTP/1.0\r\n"), 0);
  EXPECT_EQ(refusal("GET / HTTP/1.1\r\nHost:\r\n"), 0);
  EXPECT_EQ(refusal("GET / HTTP/1.0\r\nHost: a b\r\n"), 400);
  for (const char* host :
       {"user@localhost", "localhost:0", "localhost:65536", "[::1", "localhost, localhost", "http://localhost"})
    EXPECT_EQ(refusal(std::string("GET / HTTP/1.1\r\nHost: ") + host + "\r\n"), 400) << host;
}

// A body whose end is not known would be read as the next request, by somebody who was not asked for a key perhaps.
TEST(HttpHeads, SayWhereTheBodyEnds) {
  const auto coded = [](const std::string& fields, const char* version = "1.1") {
    return refusal("POST / HTTP/" + std::string(version) + "\r\nHost: a\r\n" + fields);
  };
  EXPECT_EQ(coded("Transfer-Encoding: Chunked\r\n"), 0);
  EXPECT_EQ(coded("Transfer-Encoding: gzip\r\n"), 400);
  EXPECT_EQ(coded("Transfer-Encoding: chunked, gzip\r\n"), 400);
  EXPECT_EQ(coded("Transfer-Encoding: identity\r\n"), 400);
  EXPECT_EQ(coded("Transfer-Encoding:\r\n"), 400);
  EXPECT_EQ(coded("Transfer-Encoding: gzip\r\nContent-Length: 5\r\n"), 400);
  EXPECT_EQ(coded("Transfer-Encoding: gzip, chunked\r\n"), 501);
  EXPECT_EQ(coded("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"), 501);
  EXPECT_EQ(coded("Transfer-Encoding: chunked\r\n", "1.0"), 400);
}

TEST(HttpHeads, WithUnknownMethodsAndExpectationsAreRefused) {
  EXPECT_EQ(refusal("BREW / HTTP/1.1\r\nHost: a\r\n"), 501);
  EXPECT_EQ(refusal("get / HTTP/1.1\r\nHost: a\r\n"), 501);
  EXPECT_EQ(refusal("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n"), 501);
  EXPECT_EQ(refusal("PUT / HTTP/1.1\r\nHost: a\r\n"), 0);
  EXPECT_EQ(refusal("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n"), 0);
  EXPECT_EQ(refusal("POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n"), 417);
  EXPECT_EQ(refusal("POST / HTTP/1.0\r\nExpect: tea\r\n"), 0);
}

}  // namespace
}  // namespace nostos::server
