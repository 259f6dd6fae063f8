// Implements a hub's interface and its errors.
#include "hub/hub.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "hub/partial_blob.h"

namespace nostos {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t kMostAnswerBytes = size_t{16} << 20;
constexpr int kMostPages = 1000;

bool is_whole(const HttpAnswer& answer) {
  return answer.failure.empty() && (answer.status == 200 || answer.status == 206);
}

bool may_pass(const HttpAnswer& answer) {
  if (!answer.failure.empty()) return answer.may_pass;
  return answer.status == 408 || answer.status == 429 || answer.status >= 500;
}

/// \return what the hub says of an error, "" if it says nothing.
std::string reason_of(const HttpAnswer& answer) {
  if (!answer.failure.empty()) return answer.failure;
  const std::string message = answer.header("x-error-message");
  return fmt::format("HTTP status {}{}", answer.status, message.empty() ? "" : ": " + message);
}

}  // namespace

/// Counts the failures of one file or one question since bytes came last.
class Hub::Retries {
 public:
  explicit Retries(const std::function<bool()>& is_stopped) : is_stopped_(is_stopped) {}

  void progressed() { failures_ = 0; }

  /// Waits until it is time to try again. \return false if it is not worth it
  bool wait(const HttpAnswer& answer) {
    constexpr int kMostFailures = 6;
    constexpr milliseconds kFirst(250), kLongest(30'000);
    constexpr int64_t kMostRetryAfterS = 600;
    require(!is_stopped_(), ErrorKind::cancelled, "interrupted");
    if (!may_pass(answer) || ++failures_ > kMostFailures) return false;
    milliseconds pause = std::min(kFirst * (1 << (failures_ - 1)), kLongest);
    if (const std::optional<int64_t> asked = parse_retry_after(answer.header("retry-after"))) {
      if (*asked > kMostRetryAfterS) return false;
      pause = std::chrono::seconds(*asked);
      log_warning("the hub asks to wait {} s", *asked);
    }
    log_debug("{}; trying again in {} ms", reason_of(answer), pause.count());
    for (const auto end = steady_clock::now() + pause; steady_clock::now() < end;) {
      require(!is_stopped_(), ErrorKind::cancelled, "interrupted");
      std::this_thread::sleep_for(milliseconds(20));
    }
    return true;
  }

 private:
  const std::function<bool()>& is_stopped_;
  int failures_ = 0;
};

Hub::Hub(const HubPlace& place, const ModelName& model, std::function<bool()> is_stopped)
    : place_(place), model_(model), is_stopped_(is_stopped), client_(place, std::move(is_stopped)) {}

std::string Hub::title() const { return model_.owner + "/" + model_.name; }

HttpAnswer Hub::ask(const std::string& url) {
  Retries retries(is_stopped_);
  for (;;) {
    HttpAnswer answer = client_.get(url, kMostAnswerBytes);
    if (is_whole(answer)) return answer;
    if (!retries.wait(answer)) refuse(answer, fmt::format("'{}'", url));
  }
}

void Hub::refuse_user(const HttpAnswer& answer) const {
  const std::string page = fmt::format("{}/{}", place_.endpoint, title());
  const std::string tokens = place_.endpoint + "/settings/tokens";
  const bool is_gated = answer.header("x-error-code") == "GatedRepo";
  if (place_.token.empty()) {
    if (is_gated)
      fail(
          ErrorKind::model,
          "model '{}' is gated: accept its terms at {}, make a token at {} and give it as HF_TOKEN, or log in with: hf "
          "auth login",
          title(), page, tokens);
    fail(ErrorKind::model,
         "there is no model '{}' at {}, or it is private: check its name; a private one needs a token ({}) in HF_TOKEN",
         title(), place_.endpoint, tokens);
  }
  if (is_gated)
    fail(ErrorKind::model, "model '{}' is gated, and whose token is in {} may not have it yet: accept its terms at {}",
         title(), place_.token_origin, page);
  fail(ErrorKind::model,
       "the hub does not let the token in {} have model '{}' ({}): check the name, and the token at {}",
       place_.token_origin, title(), reason_of(answer), tokens);
}

void Hub::refuse(const HttpAnswer& answer, const std::string& what) const {
  const std::string code = answer.header("x-error-code");
  if (answer.failure.empty()) {
    if (answer.status == 401 || answer.status == 403) refuse_user(answer);
    if (code == "RevisionNotFound")
      fail(ErrorKind::model, "model '{}' has no revision '{}': it must be a branch, a tag or a commit", title(),
           model_.revision.empty() ? "main" : model_.revision);
    require(answer.status != 404, ErrorKind::model, "{} is not at {}: check the model's name '{}'", what,
            place_.endpoint, title());
    require(answer.status != 429, ErrorKind::internal,
            "the hub has had too many requests{}: pull again later{}; what is there is kept",
            answer.header("retry-after").empty() ? "" : " and asks to wait " + answer.header("retry-after") + " s",
            place_.token.empty() ? ", or with a token in HF_TOKEN, which may ask more often" : "");
  }
  fail(ErrorKind::internal, "cannot fetch {}: {}; what is there is kept, pull again to go on", what, reason_of(answer));
}

std::string Hub::commit() {
  const std::string url = fmt::format("{}/api/models/{}/revision/{}", place_.endpoint, title(),
                                      percent_encoded(model_.revision.empty() ? "main" : model_.revision));
  return parse_hub_commit(ask(url).body, url);
}

std::vector<HubFile> Hub::files(const std::string& commit) {
  std::vector<HubFile> all;
  std::string url =
      fmt::format("{}/api/models/{}/tree/{}?recursive=true&expand=false", place_.endpoint, title(), commit);
  for (int page = 0; !url.empty(); ++page) {
    require(page < kMostPages, ErrorKind::model, "the listing of '{}' has no end: more than {} pages", title(),
            kMostPages);
    const HttpAnswer answer = ask(url);
    std::vector<HubFile> files = parse_hub_listing(answer.body, url);
    all.insert(all.end(), std::make_move_iterator(files.begin()), std::make_move_iterator(files.end()));
    url = parse_next_page(answer.header("link"));
  }
  return all;
}

// A hub that keeps its word has nothing else under a commit. Without these headers the checksum tells.
void Hub::require_same(const HttpAnswer& head, const std::string& commit, const HubFile& file) const {
  const auto differs = [](const std::string& said, const std::string& wanted) {
    return !said.empty() && said != wanted;
  };
  std::string tag = head.header("x-linked-etag");
  if (tag.starts_with("W/")) tag.erase(0, 2);
  std::erase(tag, '"');
  require(!differs(head.header("x-repo-commit"), commit) && !differs(tag, file.digest), ErrorKind::internal,
          "'{}' of model '{}' has changed on the hub while it was fetched: pull again", file.path, title());
}

void Hub::fetch_rest(const std::string& url, const std::string& commit, const HubFile& file, PartialBlob& blob) {
  Retries retries(is_stopped_);
  while (blob.bytes() < file.bytes) {
    const uint64_t from = blob.bytes();
    const HttpReceiver receiver{.begin =
                                    [&](const HttpAnswer& head) {
                                      require_same(head, commit, file);
                                      const bool goes_on =
                                          head.status == 206 &&
                                          head.header("content-range").starts_with(fmt::format("bytes {}-", from));
                                      if (!goes_on && from > 0) blob.restart();
                                    },
                                .take =
                                    [&](std::span<const std::byte> bytes) {
                                      retries.progressed();
                                      blob.append(bytes);
                                    }};
    const HttpAnswer answer = client_.download(url, from, receiver);
    if (blob.bytes() >= file.bytes) return;
    if (answer.status == 416 && from > 0) {
      blob.restart();
    } else if (is_whole(answer)) {
      // The server ended early, and says that it is done.
      HttpAnswer cut;
      cut.failure = "the answer is too short";
      cut.may_pass = true;
      if (!retries.wait(cut)) refuse(cut, fmt::format("'{}'", file.path));
    } else if (!retries.wait(answer)) {
      refuse(answer, fmt::format("'{}' of '{}'", file.path, title()));
    }
  }
}

void Hub::fetch(const std::string& commit, const HubFile& file, PartialBlob& blob) {
  const std::string url =
      fmt::format("{}/{}/resolve/{}/{}", place_.endpoint, title(), commit, percent_encoded(file.path, "/"));
  for (const bool is_last : {false, true}) {
    fetch_rest(url, commit, file, blob);
    if (blob.commit()) return;
    require(!is_last, ErrorKind::internal,
            "'{}' of model '{}' came with a wrong checksum twice: the hub, or a proxy before it, gives other bytes",
            file.path, title());
    log_warning("'{}' has a wrong checksum: it is fetched anew", file.path);
  }
}

}  // namespace nostos
