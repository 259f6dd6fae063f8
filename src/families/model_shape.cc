// Implements the forms of guidance.
#include "families/model_shape.h"

#include "base/error.h"

namespace nostos {

const char* name(GuidanceForm form) {
  switch (form) {
    case GuidanceForm::none:
      return "none";
    case GuidanceForm::from_positive:
      return "from_positive";
    case GuidanceForm::from_negative:
      return "from_negative";
  }
  return "";
}

GuidanceForm parse_guidance_form(const std::string& text) {
  for (const GuidanceForm form : {GuidanceForm::none, GuidanceForm::from_positive, GuidanceForm::from_negative})
    if (text == name(form)) return form;
  fail(ErrorKind::model, "guidance_form is '{}': it must be none, from_positive or from_negative", text);
}

bool guides(GuidanceForm form, double scale) {
  switch (form) {
    case GuidanceForm::none:
      return false;
    case GuidanceForm::from_positive:
      return scale > 0;
    case GuidanceForm::from_negative:
      return scale > 1;
  }
  return false;
}

}  // namespace nostos
