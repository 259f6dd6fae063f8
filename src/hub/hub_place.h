// Owns what the environment says of a Hugging Face hub: its address, the user's token, and whether the network may be
// used. Read it once, at the edge.
#pragma once

#include <string>

namespace nostos {

/// Where a hub is, and who asks it.
struct HubPlace {
  std::string endpoint = "https://huggingface.co";  ///< without a "/" at the end
  std::string token;                                ///< "" without one
  std::string token_origin;                         ///< for people: the variable, or the file
  double patience_s = 10;                           ///< without a byte, after which a connection is given up
  std::string authorities;                          ///< file of those whose certificates count; "": the system's
};

/// \return what huggingface_hub takes from the same environment: HF_ENDPOINT; HF_TOKEN, else HUGGING_FACE_HUB_TOKEN,
/// else the file HF_TOKEN_PATH, else `token` in hugging_face_home(), unless HF_HUB_DISABLE_IMPLICIT_TOKEN is on;
/// HF_HUB_DOWNLOAD_TIMEOUT; SSL_CERT_FILE.
/// \throws Error invalid_input naming the variable that is wrong, or HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE where it
/// forbids the network
HubPlace hub_from_environment();

}  // namespace nostos
