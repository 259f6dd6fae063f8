// Implements reading and mapping of files.
#include "io/mapped_file.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

#include "base/error.h"

namespace nostos {
namespace {

/// \return the size of an open file, 0 if it cannot be told. `problem` says why.
size_t size_of(int descriptor, std::string& problem) {
  struct stat status;
  if (::fstat(descriptor, &status) == 0) return static_cast<size_t>(status.st_size);
  problem = std::generic_category().message(errno);
  return 0;
}

/// Gives advice on the pages that hold `part`: all of them, or only those that hold nothing else.
void advise(std::span<const std::byte> part, bool whole_pages_only, int advice) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  auto first = reinterpret_cast<uintptr_t>(part.data());
  uintptr_t last = first + part.size();
  first = whole_pages_only ? (first + page - 1) / page * page : first / page * page;
  if (whole_pages_only) last = last / page * page;
  // A hint: that the kernel does not take it is no error.
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, advice);
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& file)
    : path_(file), descriptor_(open_to_read(file, ErrorKind::model)) {
  std::string problem;
  size_ = size_of(descriptor_, problem);
  if (problem.empty() && size_ > kReadBytes) {
    void* mapping = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor_, 0);
    if (mapping != MAP_FAILED) {
      data_ = static_cast<const std::byte*>(mapping);
      return;
    }
    problem = std::generic_category().message(errno);
  }
  descriptor_.reset();
  require(problem.empty(), ErrorKind::model, "cannot read '{}': {}", file.string(), problem);
  const std::string text = read_file(file, kReadBytes, ErrorKind::model);
  const auto bytes = std::as_bytes(std::span(text));
  read_.assign(bytes.begin(), bytes.end());
  data_ = read_.data();
  size_ = read_.size();
}

MappedFile::~MappedFile() {
  if (descriptor_ >= 0) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::require_whole() const {
  if (descriptor_ < 0) return;
  std::string problem;
  const size_t now = size_of(descriptor_, problem);
  require(now >= size_, ErrorKind::model, "'{}' was cut from {} to {} bytes while it was being read", path_.string(),
          size_, now);
}

void MappedFile::will_need(std::span<const std::byte> part) const {
  if (descriptor_ >= 0) advise(part, false, MADV_WILLNEED);
}

void MappedFile::release(std::span<const std::byte> part) const {
  if (descriptor_ >= 0) advise(part, true, MADV_DONTNEED);
}

}  // namespace nostos
