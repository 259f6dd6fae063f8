// Owns what rank 0 decides at the end of a denoising step for all ranks alike.
#pragma once

#include <cstdint>

#include "parallel/communicator.h"
#include "pipeline/generation.h"

namespace nostos {

/// The ranks agree on rank 0's wishes with a message of a few bytes a step, and with none where it can have no wishes.
class StepOrders {
 public:
  /// Every rank makes one for each drawing. \param progress of rank 0 counts. \throws Error peer_failed
  StepOrders(Communicator& world, const Progress& progress);

  /// \return whether at_end_of() may ask for previews.
  bool has_previews() const { return has_previews_; }

  /// Every rank calls it after every step. \param step number of all pictures' steps, from 1 \param is_last of its picture
  /// \return whether a preview is wanted: after a picture's last step never. \throws Error cancelled, on all ranks alike
  bool wants_preview(int64_t step, bool is_last);

 private:
  Communicator& world_;
  const Progress& progress_;
  bool has_previews_ = false, can_cancel_ = false;
};

}  // namespace nostos
