// Tests what of the HTTP client needs no server; tests/apps/pull_test.py has the rest.
#include "hub/http_client.h"

#include <gtest/gtest.h>

namespace nostos {
namespace {

TEST(PercentEncoded, KeepsWhatUrlsMayHold) {
  EXPECT_EQ(percent_encoded("refs/pr/1"), "refs%2Fpr%2F1");
  EXPECT_EQ(percent_encoded("a b/c%?#é.json", "/"), "a%20b/c%25%3F%23%C3%A9.json");
  EXPECT_EQ(percent_encoded("AZaz09-._~"), "AZaz09-._~");
}

TEST(HttpClient, AsksWebServersAlone) {
  const HubPlace place;
  HttpClient client(place, [] { return false; });
  for (const char* url : {"file:///etc/hostname", "ftp://127.0.0.1/a", "", "x"}) {
    const HttpAnswer answer = client.get(url, 100);
    EXPECT_NE(answer.failure, "") << url;
    EXPECT_EQ(answer.body, "") << url;
  }
}

}  // namespace
}  // namespace nostos
