// Tests the reading of forms with files, hostile ones above all.
#include "apps/server/multipart.h"

#include <gtest/gtest.h>

#include "apps/server/api_error.h"

namespace nostos::server {
namespace {

const std::string kType = "multipart/form-data; boundary=XyZ";

std::string part(const std::string& headers, const std::string& body) {
  return "--XyZ\r\n" + headers + "\r\n\r\n" + body + "\r\n";
}

std::string field(const std::string& name, const std::string& body) {
  return part("Content-Disposition: form-data; name=\"" + name + "\"", body);
}

/// \return the status that the form is refused with, 0 for one that is taken.
int refused(const std::string& type, const std::string& body, const std::string& what = "") {
  try {
    parse_multipart(type, body);
    return 0;
  } catch (const ApiError& error) {
    EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    return error.status;
  }
}

TEST(Multipart, HasItsPartsInOrder) {
  const std::string file = std::string("\x89PNG\r\n\0--Xy\r\n--XyY", 19);
  const std::string body = field("prompt", "a cat") +
                           part(
                               "content-type: image/png\r\nContent-Disposition:form-data; Name=\"image[]\"; "
                               "filename=\"C:\\\\my \\\"cat\\\".png\"",
                               file) +
                           part("Content-Disposition: form-data; name=image; filename=\"\"", "") + field("empty", "") +
                           "--XyZ--\r\n";
  const std::vector<FormPart> parts = parse_multipart(kType, body);
  ASSERT_EQ(parts.size(), 4u);
  EXPECT_EQ(parts[0].name, "prompt");
  EXPECT_EQ(parts[0].body, "a cat");
  EXPECT_FALSE(parts[0].is_file);
  EXPECT_EQ(parts[1].name, "image[]");
  EXPECT_EQ(parts[1].file, "my \"cat\".png");
  EXPECT_EQ(parts[1].body, file);
  EXPECT_TRUE(parts[2].is_file);
  EXPECT_EQ(parts[2].name, "image");
  EXPECT_EQ(parts[2].file, "");
  EXPECT_EQ(parts[2].body, "");
  EXPECT_EQ(parts[3].body, "");
  EXPECT_TRUE(parse_multipart(kType, "--XyZ--").empty());
}

TEST(Multipart, BoundariesMayStandInQuotes) {
  const std::string body = "--a b:c\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n1\r\n--a b:c--";
  for (const char* type :
       {"multipart/form-data; boundary=\"a b:c\"", "Multipart/Form-Data; charset=utf-8; BOUNDARY=\"a b:c\"",
        "multipart/form-data;boundary=\"a b:c\";"})
    EXPECT_EQ(parse_multipart(type, body).at(0).body, "1") << type;
}

TEST(Multipart, OtherTypesAreRefused) {
  for (const char* type :
       {"", "application/json", "multipart/mixed; boundary=XyZ", "text/plain", "multipart/form-data boundary=XyZ"})
    EXPECT_EQ(refused(type, "--XyZ--"), 415) << type;
  for (const std::string& type :
       {std::string("multipart/form-data"), std::string("multipart/form-data; boundary="),
        std::string("multipart/form-data; boundary=\"\""), std::string("multipart/form-data; boundary=\"a \""),
        std::string("multipart/form-data; boundary=a\"b"), std::string("multipart/form-data; boundary=\"a\r\nb\""),
        "multipart/form-data; boundary=" + std::string(71, 'a')})
    EXPECT_EQ(refused(type, "--XyZ--", "boundary"), 400) << type;
  EXPECT_EQ(refused("multipart/form-data; boundary=a; boundary=b", "--a--", "boundary"), 400);
  EXPECT_EQ(refused("multipart/form-data; boundary=" + std::string(70, 'a'), "--" + std::string(70, 'a') + "--"), 0);
}

TEST(Multipart, AFormIsWholeOrRefused) {
  const std::string body = field("prompt", "a cat") + field("n", "2") + "--XyZ--\r\n";
  ASSERT_EQ(refused(kType, body), 0);
  // Without its last line's end it is whole.
  for (size_t length = 0; length + 3 < body.size(); ++length)
    EXPECT_EQ(refused(kType, body.substr(0, length), "not proper"), 400) << length;
  EXPECT_EQ(refused(kType, "--XyZ--more", "end of its line"), 400);
  EXPECT_EQ(refused(kType, "--XyZ more\r\n", "end of its line"), 400);
  EXPECT_EQ(refused(kType, "preamble" + body, ""), 0) << "the second boundary is the first that begins a line";
  EXPECT_EQ(refused(kType, "preamble--XyZ--", "nowhere"), 400);
  EXPECT_EQ(refused("multipart/form-data; boundary=other", body, "nowhere"), 400);
}

// RFC 2046, 5.1.1: a preamble, an epilogue, and blanks behind a boundary are to be ignored.
TEST(Multipart, WhatStandsAroundTheBoundariesCountsForNothing) {
  const std::string body = field("prompt", "a cat") + field("n", "2") + "--XyZ--";
  std::string padded = body;
  for (size_t at = padded.find("--XyZ\r\n"); at != std::string::npos; at = padded.find("--XyZ\r\n", at + 1))
    padded.insert(at + 5, " \t");
  for (const std::string& form : {"\r\n" + body, "preamble\r\n" + body, "--XyY\r\n\r\n" + body, body + "\r\n",
                                  body + "\r\nepilogue", body + " \r\n" + field("more", "1"), padded, body + " "}) {
    const std::vector<FormPart> parts = parse_multipart(kType, form);
    ASSERT_EQ(parts.size(), 2u) << form;
    EXPECT_EQ(parts[0].body, "a cat") << form;
    EXPECT_EQ(parts[1].body, "2") << form;
  }
}

TEST(Multipart, PartsWithoutANameAreRefused) {
  for (const char* headers :
       {"Content-Type: text/plain", "Content-Disposition: form-data", "Content-Disposition: form-data; name=\"\"",
        "Content-Disposition: attachment; name=\"x\"", "Content-Disposition: form-data; name=\"x",
        "Content-Disposition: form-data; name=x; name=y", "Content-Disposition: form-data; =x", "no header", ": x",
        "Content-Disposition: form-data; name=\"x\"\r\nContent-Disposition: form-data; name=\"y\""})
    EXPECT_EQ(refused(kType, part(headers, "1") + "--XyZ--"), 400) << headers;
  EXPECT_EQ(refused(kType, field(std::string(257, 'n'), "1") + "--XyZ--", "256 bytes"), 400);
}

TEST(Multipart, PartsOfPartsAndEncodedOnesAreRefused) {
  const std::string name = "Content-Disposition: form-data; name=\"x\"\r\n";
  EXPECT_EQ(
      refused(kType, part(name + "Content-Type: multipart/mixed; boundary=b", "--b--") + "--XyZ--", "parts of its own"),
      400);
  for (const char* coding : {"base64", "quoted-printable", "\"\"x"})
    EXPECT_EQ(refused(kType, part(name + "Content-Transfer-Encoding: " + coding, "eA==") + "--XyZ--", "encoded"), 400);
  EXPECT_EQ(refused(kType, part(name + "Content-Transfer-Encoding: Binary", "x") + "--XyZ--"), 0);
}

TEST(Multipart, NumbersAndHeadersHaveLimits) {
  std::string many;
  for (int i = 0; i < 10'000; ++i) many += field("x", "");
  EXPECT_EQ(refused(kType, many + "--XyZ--", "more than 64 parts"), 400);
  EXPECT_EQ(refused(kType,
                    part("Content-Disposition: form-data; name=\"x\"\r\nX: " + std::string(5000, 'y'), "1") + "--XyZ--",
                    "more than 4096 bytes"),
            400);
  std::string bomb = "Content-Disposition: form-data; name=\"x\"";
  for (int i = 0; i < 100'000; ++i) bomb += "\r\nA: b";
  EXPECT_EQ(refused(kType, part(bomb, "1") + "--XyZ--", "more than 4096 bytes"), 400);
  // A body that is nearly its boundary throughout is read in no time.
  std::string nearly;
  for (int i = 0; i < 1'000'000; ++i) nearly += "\r\n--XyY";
  EXPECT_EQ(refused(kType, field("x", nearly) + "--XyZ--"), 0);
}

TEST(Multipart, FilesNamesAreOneLineWithoutFolders) {
  const auto name_of = [](const std::string& given) {
    return parse_multipart(
               kType,
               part("Content-Disposition: form-data; name=\"image\"; filename=\"" + given + "\"", "1") + "--XyZ--")
        .at(0)
        .file;
  };
  EXPECT_EQ(name_of("../../etc/passwd"), "passwd");
  EXPECT_EQ(name_of("a\tb\x01.png"), "ab.png");
  EXPECT_EQ(name_of("/"), "");
  EXPECT_EQ(name_of("\xe7\x8c\xab.png"), "\xe7\x8c\xab.png");
  EXPECT_EQ(name_of("\xff.png"), "\xef\xbf\xbd.png");
  EXPECT_EQ(name_of(std::string(1000, 'x')).size(), 256u);
}

}  // namespace
}  // namespace nostos::server
