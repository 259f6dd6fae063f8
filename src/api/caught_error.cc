// Implements the translation of what is thrown.
#include "api/caught_error.h"

#include <filesystem>
#include <new>
#include <system_error>

namespace nostos {
namespace {

/// \return whether an error says that a path, which the user named, cannot be looked at.
bool is_of_a_path(const std::error_code& error) {
  return error == std::errc::permission_denied || error == std::errc::too_many_symbolic_link_levels ||
         error == std::errc::filename_too_long || error == std::errc::not_a_directory ||
         error == std::errc::no_such_file_or_directory;
}

}  // namespace

Error caught_error(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& known) {
    return known;
  } catch (const std::filesystem::filesystem_error& refused) {
    if (!is_of_a_path(refused.code())) return {ErrorKind::internal, refused.what()};
    return {ErrorKind::invalid_input,
            fmt::format("cannot use '{}': {}", refused.path1().string(), refused.code().message())};
  } catch (const std::bad_alloc&) {
    return {ErrorKind::out_of_memory, "out of memory"};
  } catch (const std::exception& unknown) {
    return {ErrorKind::internal, unknown.what()};
  } catch (...) {
    return {ErrorKind::internal, "something was thrown that is no std::exception"};
  }
}

}  // namespace nostos
