// Owns the reading of fields that say which picture a drawing follows, and how. The readers of whole bodies call it.
#pragma once

#include <nlohmann/json.hpp>

#include "apps/server/fields.h"
#include "apps/server/uploads.h"
#include "pipeline/request.h"

namespace nostos::server {

/// Reads the field `control` of the jobs' and OpenAI's APIs, {image, scale, start, end, preprocessor}.
/// \param control null: there is none \throws ApiError 400 naming the field, e.g. control.scale
void read_control(const nlohmann::json& control, const OrderLimits& limits, SentPictures& pictures,
                  GenerationRequest& request);

/// Reads the units of A1111's ControlNet in a body's `alwayson_scripts`, of which one may be enabled.
/// \throws ApiError 400 naming the field, e.g. alwayson_scripts.controlnet.args[0].weight
void read_a1111_control(const Fields& fields, const OrderLimits& limits, SentPictures& pictures,
                        GenerationRequest& request);

}  // namespace nostos::server
