// Owns checked reading of JSON configuration files. Read every config of a model through it: each complaint names file,
// field, what was found and what would be right.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nostos {

/// A JSON object read from a file, cheap to copy. Every getter throws Error model if the field is of another type, out
/// of range, or missing. The `_or` forms return `otherwise` where the field is missing or null.
class JsonConfig {
 public:
  static constexpr size_t kMaxBytes = 16u << 20;
  static constexpr int kMaxDepth = 64;
  static constexpr double kLowest = std::numeric_limits<double>::lowest();
  static constexpr double kHighest = std::numeric_limits<double>::max();

  /// \throws Error model if the file is missing, is larger than kMaxBytes, holds no JSON object, is nested deeper than
  /// kMaxDepth, or names a field twice.
  static JsonConfig load(const std::filesystem::path& file);
  /// As load(), but returns nothing if there is no such file. A link to nothing is an error.
  static std::optional<JsonConfig> load_if_there(const std::filesystem::path& file);
  /// As load(), from memory. \param name stands for the file in messages.
  static JsonConfig parse(std::string_view text, std::string name);

  /// \return the file's name as messages write it.
  const std::string& name() const { return name_; }
  /// \return whether the field is present and not null.
  bool has(std::string_view field) const;
  /// \return whether the field is present and null.
  bool is_null(std::string_view field) const;
  /// \return the names of all fields, sorted.
  std::vector<std::string> fields() const;

  /// \return the field, an integer in [min, max].
  int64_t integer(std::string_view field, int64_t min, int64_t max) const;
  /// \return the field, an integer in [0, 2^64).
  uint64_t unsigned_integer(std::string_view field) const;
  int64_t integer_or(std::string_view field, int64_t otherwise, int64_t min, int64_t max) const;
  /// \return the field, a finite number (written as an integer or not) in [min, max].
  double number(std::string_view field, double min = kLowest, double max = kHighest) const;
  double number_or(std::string_view field, double otherwise, double min = kLowest, double max = kHighest) const;
  bool boolean(std::string_view field) const;
  bool boolean_or(std::string_view field, bool otherwise) const;
  std::string string(std::string_view field) const;
  std::string string_or(std::string_view field, std::string_view otherwise) const;
  /// \return the field, an array of integers each in [min, max].
  std::vector<int64_t> integers(std::string_view field, int64_t min, int64_t max) const;
  std::vector<int64_t> integers_or(std::string_view field, std::vector<int64_t> otherwise, int64_t min,
                                   int64_t max) const;
  /// \return the field, an array of finite numbers each in [min, max].
  std::vector<double> numbers(std::string_view field, double min = kLowest, double max = kHighest) const;
  std::vector<std::string> strings(std::string_view field) const;
  std::vector<std::string> strings_or(std::string_view field, std::vector<std::string> otherwise) const;
  /// \return the nested object, nothing if missing or null.
  std::optional<JsonConfig> object(std::string_view field) const;
  /// \return the elements of the field, an array of objects.
  std::vector<JsonConfig> objects(std::string_view field) const;

  /// \return `_class_name`, or the first of `architectures` where there is no `_class_name`.
  /// \throws Error model unless it is one of `known`.
  std::string class_name(std::span<const std::string_view> known) const;
  /// As class_name(), but the config may leave its class out, because model_index.json names the class of a part.
  void check_class(std::span<const std::string_view> known) const;
  /// \param what is wrong with the field, e.g. "must be even"
  /// \throws Error model naming file and field
  [[noreturn]] void refuse(std::string_view field, std::string_view what) const;
  /// Refuses a config that says how its weights are quantised (`quantization_config`). \throws Error model
  void require_unquantised() const;

  /// \return the whole object as indented JSON.
  std::string dump() const;

 private:
  struct Document;
  JsonConfig(std::shared_ptr<const Document> document, std::string name, std::string prefix);

  std::shared_ptr<const Document> document_;
  std::string name_;
  std::string prefix_;  ///< dotted path of this object in the file, "" or ending in "."
};

}  // namespace nostos
