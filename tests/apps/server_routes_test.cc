// Tests that the OpenAPI document and the router's table name the same routes.
#include <gtest/gtest.h>

#include <cctype>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>

#include "apps/server/router.h"
#include "apps/server/web_files.h"

namespace nostos::server {
namespace {

using Names = std::set<std::pair<std::string, std::string>>;

TEST(ServerRoutes, TheDocumentNamesEveryRouteAndNoOther) {
  Names served, written;
  for (const RouteName& route : route_names()) served.emplace(route.method, route.pattern);
  const auto text = web_file("openapi.json");
  ASSERT_TRUE(text.has_value());
  const auto document = nlohmann::json::parse(*text);
  for (const auto& [path, operations] : document.at("paths").items()) {
    for (const auto& [name, operation] : operations.items()) {
      if (name == "parameters") continue;
      std::string method = name;
      for (char& c : method) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      written.emplace(method, path);
    }
  }
  EXPECT_GT(served.size(), 50u);
  EXPECT_EQ(written, served);
  EXPECT_EQ(document.at("info").at("version"), NOSTOS_VERSION);
}

}  // namespace
}  // namespace nostos::server
