// Owns one rank's part in a drawing, stage by stage. Engine calls draw() on every rank; start here to see how an image
// is made.
#pragma once

#include <memory>
#include <vector>

#include "parallel/communicator.h"
#include "pipeline/drawing.h"
#include "pipeline/generation.h"
#include "pipeline/hand_over.h"
#include "pipeline/rank.h"

namespace nostos {

/// What draw() made.
struct Drawn {
  /// Of each request. Those of rank 0 have the images, and what all ranks report. Empty where another lane draws on.
  std::vector<Generation> made{};
  std::unique_ptr<HandOver> rest{};  ///< on rank 0: what another lane draws on from
};

/// Draws requests together. Every rank of the world calls it with the same stretch, whose requests must be requests
/// that can be drawn together (draws_together()). These are a rank's stages, in order. Each stage is a file of
/// functions beside this one:
///
///   stage          file           who works       parts in use       exchanges
///   plan, load     draw           all; leaders    (loaded)           the prompts' lengths
///   encode         references     all             encode             reference images, to all; halos, sums, tokens
///   text           captions       rank 0          text               prompt embeddings, to all
///   initial state  initial_state  rank 0, or all  none               noise, to all
///   denoise        denoise        all             denoise            heads and rows of attention; tokens
///   hand over      hand_over      all             none               none; instead of the rest, where the lane changes
///   decode         decode         all             decode             halos, sums, keys and values; pixels to rank 0
///   report         report         all             none               what each rank did
///
/// A lane that goes on with another's drawing has the plan and takes over what the stages before denoising made.
///
/// The leader of a process loads and releases the parts that the process's ranks share: all at once, or each before its
/// stage (ModelParts::one_at_a_time()). A rank makes one drawing at a time.
/// Progress is called by rank 0 alone. All ranks watch the `cancel` of a single request; rank 0 alone watches all other
/// flags.
/// \throws Error invalid_input (naming the request where there are several), out_of_memory, peer_failed, device_lost;
/// cancelled once no request is wanted any more
Drawn draw(Rank& rank, Communicator& world, const Stretch& stretch);

}  // namespace nostos
