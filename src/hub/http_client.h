// Owns asking web servers for bytes, on libcurl: redirects without the user's token leaving the hub, ranges, proxies.
// It tries once; who calls it decides what becomes of a failure (hub.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "hub/hub_place.h"

namespace nostos {

/// What came of one request.
struct HttpAnswer {
  long status = 0;                             ///< of the last server on the way
  std::map<std::string, std::string> headers;  ///< by names in lower case, of all servers on the way, the last's first
  std::string body;                            ///< the beginning, of an answer that was not given to a receiver
  std::string failure;                         ///< why there is no whole answer; "" where there is one
  bool may_pass = false;                       ///< whether the failure may be over soon

  /// \return a header's value, "" without one.
  std::string header(const std::string& name) const;
};

/// Takes the body of an answer that has one (status 200 or 206) while it comes. What its functions throw, get() throws.
struct HttpReceiver {
  std::function<void(const HttpAnswer& head)> begin;
  std::function<void(std::span<const std::byte> bytes)> take;
};

/// One connection at a time, kept for the next request. One thread uses it.
class HttpClient {
 public:
  /// \param place whose token goes to its endpoint's host alone; it must outlive the client
  /// \param is_stopped is asked while the client waits; true ends the request as a failure
  HttpClient(const HubPlace& place, std::function<bool()> is_stopped);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  /// \return the answer of `url`, which is read into memory up to `most_bytes`.
  HttpAnswer get(const std::string& url, size_t most_bytes);
  /// \param from_byte where the body shall begin; a server may ignore it, and then answers 200
  /// \return the answer of `url`, whose body goes to `receiver`.
  HttpAnswer download(const std::string& url, uint64_t from_byte, const HttpReceiver& receiver);

 private:
  struct Transfer;
  HttpAnswer follow(const std::string& url, Transfer& transfer);
  void ask(const std::string& url, Transfer& transfer);

  const HubPlace& place_;
  std::function<bool()> is_stopped_;
  std::unique_ptr<void, void (*)(void*)> curl_;
};

/// \return `text` as a part of a URL. \param kept characters that stay beside letters, digits and "-._~"
std::string percent_encoded(std::string_view text, std::string_view kept = "");

}  // namespace nostos
