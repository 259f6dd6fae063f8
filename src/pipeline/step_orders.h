// Owns what rank 0 decides between denoising steps for all ranks: which requests are given up, and which previews are
// made. Each Drawing has one.
#pragma once

#include <span>
#include <vector>

#include "parallel/communicator.h"
#include "pipeline/generation.h"

namespace nostos {

inline constexpr int kRoot = 0;  ///< the rank that makes what comes from the host, and gets the pictures

/// The ranks learn rank 0's wishes by a message of a few bytes a step. Where rank 0 can have no wishes there is no
/// message.
class StepOrders {
 public:
  /// Every rank makes one for each drawing.
  /// \param progress of each request; rank 0's counts
  /// \param can_show whether previews can be made
  /// \throws Error peer_failed
  StepOrders(Communicator& world, std::span<const Progress> progress, bool can_show);

  /// \return whether previews() may ask for some.
  bool has_previews() const { return has_previews_; }

  /// Marks requests as cancelled whose `cancel` or `cancel_together` is set by now. Of a single request
  /// `cancel_together` alone counts here, because every rank watches `cancel` by itself. Every rank calls it before
  /// every step.
  /// \param requests of the drawing
  /// \throws Error cancelled, on all ranks alike, once all requests are cancelled
  void drop_cancelled(std::span<Generation> requests);

  /// A step of an image of request `request`.
  struct Step {
    size_t request = 0;
    PictureStep of{};
    bool is_last = false;  ///< of its picture, of which there is no preview then
  };
  /// Every rank calls it after every step.
  /// \return of each step whether its preview is wanted
  std::vector<bool> previews(std::span<const Step> steps);

 private:
  Communicator& world_;
  std::span<const Progress> progress_;
  bool has_previews_ = false, can_cancel_ = false;
};

}  // namespace nostos
