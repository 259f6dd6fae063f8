// Owns asking a Hugging Face hub: which commit a revision is, which files it has, and the bytes of a file. It tries
// again as long as a failure may pass, and its errors say what to do. pull.h is made of it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "hub/http_client.h"
#include "hub/hub_answers.h"
#include "hub/hub_place.h"
#include "io/model_folder.h"

namespace nostos {

class PartialBlob;

/// One thread's way to a hub. Every function waits and tries again where the hub, or the way to it, fails for a while,
/// as long as a header `Retry-After` says or twice as long each time, and gives up after some failures in a row.
class Hub {
 public:
  /// \param place, model must outlive it
  /// \param is_stopped is asked while it waits. \throws Error cancelled from all functions once it says true
  Hub(const HubPlace& place, const ModelName& model, std::function<bool()> is_stopped);

  /// \return the commit that the model's revision, or `main`, is now.
  /// \throws Error model: there is no such model or revision, or the user may not have it, or the answer is damaged;
  /// internal: the hub cannot be reached
  std::string commit();
  /// \return all files of the commit. \throws Error as commit()
  std::vector<HubFile> files(const std::string& commit);
  /// Fetches what `blob` lacks, and ends it. A checksum that is wrong is tried once more, from the first byte.
  /// \throws Error as commit(), internal with the file's name if its checksum is wrong again, what PartialBlob throws
  void fetch(const std::string& commit, const HubFile& file, PartialBlob& blob);

 private:
  class Retries;
  HttpAnswer ask(const std::string& url);
  std::string title() const;
  [[noreturn]] void refuse(const HttpAnswer& answer, const std::string& what) const;
  [[noreturn]] void refuse_user(const HttpAnswer& answer) const;
  void require_same(const HttpAnswer& head, const std::string& commit, const HubFile& file) const;
  void fetch_rest(const std::string& url, const std::string& commit, const HubFile& file, PartialBlob& blob);

  const HubPlace& place_;
  const ModelName& model_;
  std::function<bool()> is_stopped_;
  HttpClient client_;
};

}  // namespace nostos
