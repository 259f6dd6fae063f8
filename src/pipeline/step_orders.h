// Owns what rank 0 decides between denoising steps for all ranks: which requests are given up, which previews are made,
// and whether another lane draws on. Each Drawing has one.
#pragma once

#include <functional>
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
  /// Asked on rank 0 before each step. \param done steps of all images together, of `all`
  /// \return whether another lane draws on
  using HandsOver = std::function<bool(int64_t done, int64_t all)>;

  /// Every rank makes one for each drawing.
  /// \param progress of each request; rank 0's counts
  /// \param can_show whether previews can be made
  /// \param hands_over rank 0's counts; empty on all ranks or on none, and then no other lane draws on
  /// \throws Error peer_failed
  StepOrders(Communicator& world, std::span<const Progress> progress, bool can_show, HandsOver hands_over = {});

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

  /// Every rank calls it before every step. \param done, all as HandsOver has them
  /// \return whether the drawing leaves these ranks now
  bool hands_over(int64_t done, int64_t all);

 private:
  Communicator& world_;
  std::span<const Progress> progress_;
  HandsOver hands_over_;
  bool has_previews_ = false, can_cancel_ = false;
};

}  // namespace nostos
