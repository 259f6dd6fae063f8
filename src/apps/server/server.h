// Owns the whole server: the store, the queue, the listener and its end by a signal.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "apps/server/http_text.h"
#include "apps/server/job_service.h"
#include "apps/server/state.h"

namespace nostos::server {

struct ServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 30000;  ///< 0: any free one
  std::filesystem::path data_dir;
  std::string api_key;                       ///< empty: none wanted
  bool allow_remote_without_key = false;     ///< listen beyond this machine without a key
  bool trusts_client_ids = false;            ///< take X-Client-Id for the client: of a proxy that sets it itself
  std::vector<Origin> allowed_origins;       ///< other sites whose pages may use the APIs
  size_t queue_limit = 64;                   ///< jobs that wait
  StorageLimits keep;                        ///< beyond which jobs that have ended are forgotten
  std::chrono::milliseconds shutdown_grace;  ///< for the job being drawn when SIGTERM comes
};

/// \return the key that the file holds, without white space around it. \throws Error invalid_input if there is none
std::string read_api_key(const std::filesystem::path& file);

/// Keeps SIGINT and SIGTERM from ending the process: blocks them for the calling thread and those that it makes. Called
/// before any other thread is made, those of MPI included, so that they are left for the Server.
void hold_end_signals();

/// One server. Made where end signals are held, since it waits for them.
class Server {
 public:
  /// Opens the store, takes up what it has, listens, and answers at once, with 503 where a model is wanted.
  /// \throws Error invalid_input for an address that cannot be had or that wants a key, and what JobStore throws
  explicit Server(const ServerOptions& options);
  ~Server();

  /// Draws on the calling thread until SIGINT or SIGTERM, then ends in good order. A second signal ends at once.
  void run(LoadedModel model, const EngineCalls& engine);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nostos::server
