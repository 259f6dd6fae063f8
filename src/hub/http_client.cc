// Implements requests on libcurl's easy interface.
#include "hub/http_client.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <optional>
#include <string_view>

#include "base/error.h"

namespace nostos {
namespace {

constexpr int kMostRedirects = 10;
constexpr size_t kMostHeaderBytes = size_t{64} << 10;

/// \return scheme, host and port of a URL, in lower case: who is asked.
std::string origin_of(const std::string& url) {
  const std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> parts(curl_url(), &curl_url_cleanup);
  if (curl_url_set(parts.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) return "";
  std::string origin;
  for (const CURLUPart part : {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT}) {
    char* text = nullptr;
    if (curl_url_get(parts.get(), part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return "";
    origin += std::string(text) + " ";
    curl_free(text);
  }
  std::ranges::transform(origin, origin.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return origin;
}

/// \return whether what failed may succeed when it is tried again.
bool may_pass(CURLcode code) {
  constexpr std::array kPassing{CURLE_COULDNT_RESOLVE_HOST,
                                CURLE_COULDNT_CONNECT,
                                CURLE_PARTIAL_FILE,
                                CURLE_OPERATION_TIMEDOUT,
                                CURLE_SSL_CONNECT_ERROR,
                                CURLE_GOT_NOTHING,
                                CURLE_SEND_ERROR,
                                CURLE_RECV_ERROR,
                                CURLE_HTTP2,
                                CURLE_HTTP2_STREAM,
                                CURLE_AGAIN,
                                CURLE_WEIRD_SERVER_REPLY,
                                CURLE_HTTP3,
                                CURLE_QUIC_CONNECT_ERROR};
  return std::ranges::find(kPassing, code) != kPassing.end();
}

/// \return the file with the authorities to trust: where a distribution has it if the place that libcurl was built with
/// is not there; "" for libcurl's own place.
std::string system_authorities() {
  const char* const built_in = curl_version_info(CURLVERSION_NOW)->cainfo;
  std::error_code ignored;
  if (built_in != nullptr && std::filesystem::exists(built_in, ignored)) return "";
  for (const char* file : {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
                           "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"})
    if (std::filesystem::exists(file, ignored)) return file;
  return "";
}

}  // namespace

std::string HttpAnswer::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

/// One request with all its redirects.
struct HttpClient::Transfer {
  uint64_t from_byte = 0;
  size_t most_bytes = 0;
  const HttpReceiver* receiver = nullptr;
  HttpAnswer answer{};
  size_t header_bytes = 0;
  bool has_begun = false;
  std::exception_ptr thrown{};  // by the receiver, which libcurl must not see
  std::function<bool()>* is_stopped = nullptr;

  bool goes_to_receiver() const { return receiver != nullptr && (answer.status == 200 || answer.status == 206); }

  static size_t on_header(char* text, size_t, size_t bytes, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    std::string_view line(text, bytes);
    transfer.header_bytes += bytes;
    if (transfer.header_bytes > kMostHeaderBytes) return 0;
    const size_t colon = line.find(':');
    if (line.starts_with("HTTP/")) {
      const size_t space = std::min(line.find(' '), line.size());
      transfer.answer.status = std::atol(std::string(line.substr(space)).c_str());
    } else if (colon != std::string_view::npos) {
      std::string name(line.substr(0, colon));
      std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      line.remove_prefix(colon + 1);
      const size_t begin = std::min(line.find_first_not_of(" \t\r\n"), line.size());
      line.remove_prefix(begin);
      transfer.answer.headers[name] = line.substr(0, line.find_last_not_of(" \t\r\n") + 1);
    }
    return bytes;
  }

  static size_t on_body(char* bytes, size_t, size_t count, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    if (!transfer.goes_to_receiver()) {
      std::string& body = transfer.answer.body;
      const bool is_error = transfer.answer.status >= 300;
      if (body.size() + count > transfer.most_bytes) {
        if (!is_error) return 0;
        count = transfer.most_bytes - body.size();
        body.append(bytes, count);
        return 0;
      }
      body.append(bytes, count);
      return count;
    }
    try {
      if (!transfer.has_begun) transfer.receiver->begin(transfer.answer);
      transfer.has_begun = true;
      transfer.receiver->take({reinterpret_cast<const std::byte*>(bytes), count});
      return count;
    } catch (...) {
      transfer.thrown = std::current_exception();
      return 0;
    }
  }

  static int on_progress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    return (*static_cast<Transfer*>(self)->is_stopped)() ? 1 : 0;
  }
};

HttpClient::HttpClient(const HubPlace& place, std::function<bool()> is_stopped)
    : place_(place), is_stopped_(std::move(is_stopped)), curl_(nullptr, [](void* curl) { curl_easy_cleanup(curl); }) {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  check(started == CURLE_OK, "libcurl starts");
  curl_.reset(curl_easy_init());
  check(curl_ != nullptr, "libcurl makes a handle");
}

HttpClient::~HttpClient() = default;

HttpAnswer HttpClient::get(const std::string& url, size_t most_bytes) {
  Transfer transfer;
  transfer.most_bytes = most_bytes;
  return follow(url, transfer);
}

HttpAnswer HttpClient::download(const std::string& url, uint64_t from_byte, const HttpReceiver& receiver) {
  constexpr size_t kMostErrorBytes = size_t{64} << 10;
  Transfer transfer;
  transfer.from_byte = from_byte;
  transfer.most_bytes = kMostErrorBytes;
  transfer.receiver = &receiver;
  return follow(url, transfer);
}

// libcurl could follow by itself. Here the token's way is plain to see, and the hub's own headers are kept.
HttpAnswer HttpClient::follow(const std::string& url, Transfer& transfer) {
  transfer.is_stopped = &is_stopped_;
  std::string next = url;
  for (int redirects = 0; redirects <= kMostRedirects; ++redirects) {
    transfer.answer.status = 0;
    transfer.answer.body.clear();
    ask(next, transfer);
    if (transfer.thrown) std::rethrow_exception(transfer.thrown);
    char* target = nullptr;
    curl_easy_getinfo(curl_.get(), CURLINFO_REDIRECT_URL, &target);
    if (!transfer.answer.failure.empty() || target == nullptr) {
      // An empty body calls nobody.
      if (transfer.answer.failure.empty() && transfer.goes_to_receiver() && !transfer.has_begun)
        transfer.receiver->begin(transfer.answer);
      return std::move(transfer.answer);
    }
    if (next.starts_with("https:") && !std::string_view(target).starts_with("https:")) {
      transfer.answer.failure = fmt::format("'{}' leads to '{}', which is not encrypted", next, target);
      return std::move(transfer.answer);
    }
    next = target;
  }
  transfer.answer.failure = fmt::format("more than {} redirects from '{}'", kMostRedirects, url);
  return std::move(transfer.answer);
}

void HttpClient::ask(const std::string& url, Transfer& transfer) {
  CURL* const curl = curl_.get();
  std::array<char, CURL_ERROR_SIZE> reason{};
  const auto patience = static_cast<long>(std::ceil(place_.patience_s));
  curl_easy_reset(curl);  // keeps the connections
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "nostos/" NOSTOS_VERSION);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 256L << 10);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, patience);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, patience);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason.data());
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &Transfer::on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Transfer::on_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, &Transfer::on_progress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &transfer);
  const std::string file = place_.authorities.empty() ? system_authorities() : place_.authorities;
  if (!file.empty()) curl_easy_setopt(curl, CURLOPT_CAINFO, file.c_str());
  if (transfer.from_byte > 0) curl_easy_setopt(curl, CURLOPT_RANGE, fmt::format("{}-", transfer.from_byte).c_str());
  std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(nullptr, &curl_slist_free_all);
  if (!place_.token.empty() && origin_of(url) == origin_of(place_.endpoint)) {
    headers.reset(curl_slist_append(nullptr, ("Authorization: Bearer " + place_.token).c_str()));
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  }
  const CURLcode code = curl_easy_perform(curl);
  const bool is_whole_error = code == CURLE_WRITE_ERROR && transfer.answer.status >= 300;
  if (code == CURLE_OK || is_whole_error) return;
  transfer.answer.failure = reason[0] != 0 ? reason.data() : curl_easy_strerror(code);
  if (code == CURLE_PEER_FAILED_VERIFICATION)
    transfer.answer.failure += " (SSL_CERT_FILE may name a file with the authorities to trust)";
  transfer.answer.may_pass = may_pass(code);
  if (code == CURLE_WRITE_ERROR && !transfer.thrown)
    transfer.answer.failure = fmt::format("the answer has more than {} bytes", transfer.most_bytes);
}

std::string percent_encoded(std::string_view text, std::string_view kept) {
  std::string encoded;
  for (const char c : text) {
    const bool stays = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("-._~").find(c) != std::string_view::npos ||
                       kept.find(c) != std::string_view::npos;
    encoded += stays ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return encoded;
}

}  // namespace nostos
