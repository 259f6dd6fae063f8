// Implements the SQLite connection.
#include "apps/server/database.h"

#include <sqlite3.h>

#include "apps/server/storage.h"
#include "base/error.h"

namespace nostos::server {
namespace {

/// \throws StorageError, or Error internal, unless `code` is that of success
void check_sqlite(int code, sqlite3* database, const char* what) {
  if (code == SQLITE_OK) return;
  const std::string reason = sqlite3_errmsg(database);
  const std::string message = fmt::format("job database: cannot {}: {}", what, reason);
  const int kind = code & 0xff;
  // Busy: somebody else's tool holds the database, for longer than it was waited for.
  if (kind == SQLITE_FULL || kind == SQLITE_IOERR || kind == SQLITE_READONLY || kind == SQLITE_CANTOPEN ||
      kind == SQLITE_BUSY)
    throw StorageError(message, reason);
  throw Error(ErrorKind::internal, message);
}

}  // namespace

Statement::Statement(sqlite3* database, std::string_view sql) : database_(database) {
  check_sqlite(sqlite3_prepare_v2(database, sql.data(), static_cast<int>(sql.size()), &statement_, nullptr), database,
               "prepare a statement");
}

Statement::~Statement() { sqlite3_finalize(statement_); }

Statement& Statement::bind(std::string_view text) {
  check_sqlite(sqlite3_bind_text64(statement_, ++bound_, text.data(), text.size(), SQLITE_TRANSIENT, SQLITE_UTF8),
               database_, "bind a text");
  return *this;
}

Statement& Statement::bind(int64_t number) {
  check_sqlite(sqlite3_bind_int64(statement_, ++bound_, number), database_, "bind a number");
  return *this;
}

Statement& Statement::bind(double number) {
  check_sqlite(sqlite3_bind_double(statement_, ++bound_, number), database_, "bind a number");
  return *this;
}

Statement& Statement::bind_null() {
  check_sqlite(sqlite3_bind_null(statement_, ++bound_), database_, "bind nothing");
  return *this;
}

bool Statement::step() {
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  check_sqlite(code == SQLITE_DONE ? SQLITE_OK : code, database_, "run a statement");
  return false;
}

std::string Statement::text(int column) const {
  const auto* bytes = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
  return bytes == nullptr ? std::string() : std::string(bytes, sqlite3_column_bytes(statement_, column));
}

int64_t Statement::integer(int column) const { return sqlite3_column_int64(statement_, column); }
double Statement::real(int column) const { return sqlite3_column_double(statement_, column); }

Database::Database(const std::filesystem::path& file, Sharing sharing) {
  const int code = sqlite3_open_v2(file.c_str(), &handle_,
                                   SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  try {
    check_sqlite(code, handle_, "open it");
    sqlite3_busy_timeout(handle_, 5000);
    if (sharing == Sharing::nobody) execute("PRAGMA locking_mode = EXCLUSIVE");
    execute("PRAGMA journal_mode = WAL");
    execute("PRAGMA synchronous = FULL");
    execute("PRAGMA foreign_keys = ON");
    execute("PRAGMA cache_size = -512");  // KiB: a gallery of thousands is no reason to grow
    Statement integrity(handle_, "PRAGMA quick_check(1)");
    require(integrity.step() && integrity.text(0) == "ok", ErrorKind::internal, "{}", integrity.text(0));
  } catch (const StorageError& error) {
    sqlite3_close(handle_);
    throw StorageError(fmt::format("{}: {}", file.string(), error.what()), error.reason());
  } catch (const Error& error) {
    sqlite3_close(handle_);
    fail(ErrorKind::internal, "{}: {}", file.string(), error.what());
  }
}

Database::~Database() { sqlite3_close(handle_); }

void Database::execute(const char* sql) {
  check_sqlite(sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr), handle_, "execute");
}

int Database::changes() const { return sqlite3_changes(handle_); }

Transaction::Transaction(Database& database) : database_(database) { database_.execute("BEGIN IMMEDIATE"); }

Transaction::~Transaction() {
  // A failed commit has already rolled back; then this has nothing to do.
  if (open_) sqlite3_exec(database_.handle(), "ROLLBACK", nullptr, nullptr, nullptr);
}

void Transaction::commit() {
  database_.execute("COMMIT");
  open_ = false;
}

}  // namespace nostos::server
