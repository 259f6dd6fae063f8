// Owns random control networks for the tiny Z-Image model that tests of whole drawings run over.
#pragma once

#include <filesystem>
#include <string>

namespace nostos::tiny {

/// The kinds of published networks, see models/zimage/README.md.
enum class ControlKind { union_1, union_2_0, union_2_1, lite };

/// A file with a control network, for as long as this lives.
class ControlFile {
 public:
  /// \param model whose transformer is to be controlled
  explicit ControlFile(ControlKind kind, const std::filesystem::path& model);
  ~ControlFile();
  ControlFile(const ControlFile&) = delete;
  ControlFile& operator=(const ControlFile&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace nostos::tiny
