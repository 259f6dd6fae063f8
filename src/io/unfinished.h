// Owns telling what a download or a checkout left unfinished: links to nothing, partial files, git-lfs pointers.
// Messages about files that cannot be read use it.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace nostos {

/// \param error the errno with which the system refused to open `path`
/// \return why, in words. A link on the way that leads to nothing is named with its target. Where a download of
/// huggingface_hub has left partial files, one of the partial files is named.
std::string why_unreadable(const std::filesystem::path& path, int error);

/// \return why_unreadable() of a path that was found absent, or that the system does not let anybody look at.
std::string why_not_there(const std::filesystem::path& path);

/// \param path a file or folder that need not exist
/// \return " (the download is incomplete: ...)" naming a partial file that a download of huggingface_hub has left
/// beside `path`; "" where there is none.
std::string partial_download(const std::filesystem::path& path);

/// \param bytes a whole file
/// \return whether `bytes` are a git-lfs pointer: the small text that stands for a file until the file is fetched.
/// Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
bool is_lfs_pointer(std::string_view bytes);

/// What messages say, after the file's name, of a file that is a git-lfs pointer.
inline constexpr std::string_view kLfsAdvice = "is a git-lfs pointer, not the file itself: fetch it with: git lfs pull";

}  // namespace nostos
