// Fuzzes the record of a drawing, which pictures of strangers carry: any text is refused, or gives a record that is
// written and read back as it is.
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "pipeline/record.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nostos;
  try {
    const DrawingRecord record =
        parse_drawing_record(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz");
    const std::string written = to_json(record);
    check(to_json(parse_drawing_record(written, "written")) == written, "a record is read as it was written");
    check(text_chunks(record).size() == 2, "a picture says how it was drawn");
  } catch (const Error& error) {
    check(error.kind() == ErrorKind::model || error.kind() == ErrorKind::invalid_input, "a bad record is bad input");
  }
  return 0;
}
