// Implements the hand-over of a drawing from lane to lane.
#include "pipeline/hand_over.h"

#include <utility>

#include "pipeline/report.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

/// Begins to copy a tensor to the host. \return an empty one if `from` is null
Tensor fetched(Context& ctx, ConstView from) {
  if (!from) return {};
  Tensor host(Device{}, from.dtype(), from.shape());
  download(ctx, from, host);
  return host;
}

}  // namespace

std::unique_ptr<HandOver> hand_over(Drawing& drawing, const PromptSet& prompts, const Conditioning& conditioning) {
  Context& ctx = drawing.ctx();
  auto made = std::make_unique<HandOver>();
  if (drawing.stretch.from != nullptr) {
    made->conditioning = drawing.stretch.from->conditioning;
  } else {
    HostConditioning host{.prompts = prompts,
                          .embeddings = fetched(ctx, conditioning.embeddings),
                          .references = fetched(ctx, conditioning.references),
                          .source = fetched(ctx, conditioning.source),
                          .mask = fetched(ctx, conditioning.mask),
                          .condition = fetched(ctx, conditioning.condition)};
    host.prompts.kept.clear();
    ctx.synchronize("conditioning");
    made->conditioning = std::make_shared<const HostConditioning>(std::move(host));
  }
  report_work(drawing);
  made->made = std::move(drawing.made);
  made->steps_done = drawing.steps_done;
  made->report = std::move(drawing.report);
  made->colors = drawing.rank.previews.colors;
  made->since = drawing.left_steps;
  return made;
}

void take_over(Drawing& drawing, const Conditioning& conditioning) {
  const HandOver& from = *drawing.stretch.from;
  const auto take = [&](const Tensor& host, View device) {
    if (host) upload(drawing.ctx(), host, device);
  };
  take(from.conditioning->embeddings, conditioning.embeddings);
  take(from.conditioning->references, conditioning.references);
  take(from.conditioning->source, conditioning.source);
  take(from.conditioning->mask, conditioning.mask);
  take(from.conditioning->condition, conditioning.condition);
  if (!drawing.rank.previews.colors) drawing.rank.previews.colors = from.colors;
}

}  // namespace nostos
