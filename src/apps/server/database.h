// Owns the SQLite connection: opening it safely, statements that close themselves, transactions that roll back.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

struct sqlite3;
struct sqlite3_stmt;

namespace nostos::server {

/// A prepared statement and its values. bind() in order, then step() for each row.
class Statement {
 public:
  Statement(sqlite3* database, std::string_view sql);
  ~Statement();
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& bind(std::string_view text);
  Statement& bind(int64_t number);
  Statement& bind(double number);
  Statement& bind_null();
  /// \return whether there is a row. \throws StorageError, Error internal with SQLite's message
  bool step();
  std::string text(int column) const;
  int64_t integer(int column) const;
  double real(int column) const;

 private:
  sqlite3* database_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
};

/// One connection in WAL mode. One thread at a time. What cannot be written throws StorageError.
class Database {
 public:
  /// Who else may open the database meanwhile.
  enum class Sharing {
    anybody,
    nobody,  ///< no file of shared memory is made beside it, for which a full disk has no space
  };

  /// Opens or creates. \throws Error internal naming the file if it is no database or damaged, StorageError
  explicit Database(const std::filesystem::path& file, Sharing sharing = Sharing::anybody);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  void execute(const char* sql);
  /// \return rows that the last statement inserted, changed or removed.
  int changes() const;
  sqlite3* handle() const { return handle_; }

 private:
  sqlite3* handle_ = nullptr;
};

/// Rolls back unless committed.
class Transaction {
 public:
  explicit Transaction(Database& database);
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  void commit();

 private:
  Database& database_;
  bool open_ = true;
};

}  // namespace nostos::server
