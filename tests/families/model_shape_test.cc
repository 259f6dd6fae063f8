// Tests the forms of classifier-free guidance.
#include "families/model_shape.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace nostos {
namespace {

TEST(GuidanceForm, IsOnFromItsOwnScale) {
  for (const double scale : {0.0, 0.5, 1.0, 4.0, 1000.0}) {
    EXPECT_FALSE(guides(GuidanceForm::none, scale)) << scale;
    EXPECT_EQ(guides(GuidanceForm::from_positive, scale), scale > 0) << scale;
    EXPECT_EQ(guides(GuidanceForm::from_negative, scale), scale > 1) << scale;
  }
}

TEST(GuidanceForm, HasANameThatIsReadAgain) {
  for (const GuidanceForm form : {GuidanceForm::none, GuidanceForm::from_positive, GuidanceForm::from_negative})
    EXPECT_EQ(parse_guidance_form(name(form)), form);
  EXPECT_STREQ(name(GuidanceForm::from_negative), "from_negative");
  for (const char* unknown : {"", "None", "from_both"}) {
    try {
      parse_guidance_form(unknown);
      ADD_FAILURE() << "taken: " << unknown;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model) << error.what();
    }
  }
}

}  // namespace
}  // namespace nostos
