// Owns telling what a download or a checkout left unfinished: links to nothing, partial files, git-lfs pointers.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace nostos {

/// \return why the system refused to open `path`: `error`, an errno, in words. Where a link on the way leads to
/// nothing, it is named with what it leads to, and where a download of huggingface_hub has left partial files, one of
/// these.
std::string why_unreadable(const std::filesystem::path& path, int error);

/// \return " (the download is incomplete: ...)" naming a partial file that a download of huggingface_hub has left
/// beside `path`, a file or folder that need not exist; "" where there is none.
std::string partial_download(const std::filesystem::path& path);

/// \return whether `bytes`, a whole file, are a git-lfs pointer: the small text that stands for a file until it is
/// fetched.
/// Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
bool is_lfs_pointer(std::string_view bytes);

/// What messages say of a file that is one, after its name.
inline constexpr std::string_view kLfsAdvice = "is a git-lfs pointer, not the file itself: fetch it with: git lfs pull";

}  // namespace nostos
