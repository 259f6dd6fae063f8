// Owns what a drawing that begins with an image sees of it, and of the mask that says which part is drawn anew. Rank 0
// prepares both when it draws.
#pragma once

#include <vector>

#include "families/model_shape.h"
#include "io/grey_image.h"
#include "io/image.h"
#include "pipeline/request.h"

namespace nostos {

/// Brings the request's first image to the drawn size: to the asked size as request.image_fit says, and beyond it with
/// its outermost pixels, where the drawn image is cropped. An image that is the asked size but for less than a multiple
/// of pixels is resized, as the reference pipelines do (diffusers, VaeImageProcessor).
/// \return 8-bit RGB
Image prepare_source(const Image& image, const ResolvedRequest& resolved, const ModelLimits& limits);

/// Brings the request's control image to the drawn size, as prepare_source() does the first image, and makes of it what
/// the request's preprocessor says.
/// \return 8-bit RGB
Image prepare_control(const Image& image, const ResolvedRequest& resolved, const ModelLimits& limits);

/// Brings a mask to the drawn size, as prepare_mask() does before it blurs. \return 255 what is drawn anew, else 0
GreyImage prepare_hard_mask(const Image& mask, const ResolvedRequest& resolved, const ModelLimits& limits);

/// Brings a mask to the size of latents. A mask of the first image's size comes to the drawn size as the image does,
/// and any other is resized to the asked size. Then it is white where its grey is 128 and more, else black, then
/// blurred, then scaled as ModelShape::mask_scaling says.
/// \return f32 [latent height, latent width], how much of each latent is drawn anew, from 0 to 1
std::vector<float> prepare_mask(const Image& mask, const ResolvedRequest& resolved, const ModelShape& model);

}  // namespace nostos
