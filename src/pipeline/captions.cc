// Implements the text stage.
#include "pipeline/captions.h"

#include <algorithm>
#include <numeric>

#include "tensor/transfer.h"

namespace nostos {
namespace {

int64_t sum(std::span<const int64_t> counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

/// \return the rows of `items` in `all`, where they stand one after the other, `counts` of each.
View rows_of(View all, std::span<const int64_t> counts, const Batch& items) {
  return all.rows(sum(counts.first(items.first)), sum(counts.subspan(items.first, items.count)));
}

/// \return the prompts in batches, without those whose embeddings are kept.
std::vector<Batch> batches_of(const Drawing& drawing, const PromptSet& prompts) {
  std::vector<Batch> batches;
  const std::vector<std::shared_ptr<const Tensor>>& kept = prompts.kept;
  for (size_t first = 0; first < kept.size();) {
    const auto is_kept = [](const std::shared_ptr<const Tensor>& caption) { return caption != nullptr; };
    const auto end = std::find_if(kept.begin() + static_cast<std::ptrdiff_t>(first), kept.end(), is_kept);
    const size_t count = static_cast<size_t>(end - kept.begin()) - first;
    const std::span<const int64_t> rows = std::span(prompts.rows).subspan(first, count);
    for (const Batch& batch : batch_plan(rows, max_batch_rows(drawing.ctx().device())))
      batches.push_back({first + batch.first, batch.count, batch.passes_apart});
    first += count + 1;
  }
  return batches;
}

/// On rank 0: notes whose prompts were cut, and tells those who follow.
void tell_truncated(Drawing& drawing, std::span<const Prompt> prompts, const PromptSet& set) {
  for (size_t i = 0; i < drawing.made.size(); ++i) {
    Generation& made = drawing.made[i];
    const GenerationRequest& request = made.resolved.request;
    const auto is_truncated = [&](const std::string& text) {
      const auto known = std::ranges::find(prompts, Prompt{text, *request.max_sequence_length});
      return known != prompts.end() && set.tokens[static_cast<size_t>(known - prompts.begin())].truncated;
    };
    made.cut = {is_truncated(request.prompt), made.resolved.is_guided && is_truncated(request.negative_prompt)};
    if (drawing.progress[i].on_prompts) drawing.progress[i].on_prompts(made.cut);
  }
}

/// Puts the token ids of a batch into its memory.
void take_ids(Context& ctx, const PromptSet& prompts, const CaptionMemory::TextBatch& batch) {
  std::vector<std::span<const int32_t>> ids;
  for (const PromptTokens& tokens : std::span(prompts.tokens).subspan(batch.prompts.first, batch.prompts.count))
    ids.emplace_back(tokens.ids);
  batch.encoding->take_ids(ctx, ids);
}

/// Runs all passes of a batch, whose parts are loaded, by what was recorded for prompts as long where there is such.
void encode(Drawing& drawing, const CaptionMemory::TextBatch& batch) {
  Context& ctx = drawing.rank.process.ctx;
  const auto work = [&] {
    for (size_t pass = 0; pass < drawing.family().stage_parts().text.size(); ++pass) batch.encoding->run(ctx, pass);
  };
  const ModelParts& parts = drawing.parts();
  if (ctx.device().kind == DeviceKind::cpu || parts.draws_once() || parts.streams_text()) return work();
  LruCache<CaptionKey, Graph>& recordings = drawing.rank.memory.captions();
  Graph* const known = recordings.find(batch.key);
  if (known != nullptr && *known) return known->launch(ctx);
  work();
  // Many lengths come only once, for which a recording would be made in vain.
  if (known == nullptr)
    recordings.insert(batch.key, Graph());
  else
    *known = Graph::record(ctx, work);
}

/// Runs the passes of all batches one after the other, where parts take turns.
void encode_in_turns(Drawing& drawing, const PromptSet& prompts, const CaptionMemory& memory) {
  Context& ctx = drawing.rank.process.ctx;
  const StageParts& stages = drawing.family().stage_parts();
  for (size_t pass = 0; pass < stages.text.size(); ++pass) {
    // Where nothing is encoded only a part that goes on to denoise is loaded.
    const bool is_needed = !memory.batches.empty() || std::ranges::count(stages.denoise, stages.text[pass]) > 0;
    drawing.turn_to(std::span(stages.text).subspan(pass, is_needed ? 1 : 0));
    if (pass == 0) drawing.enter_stage("text");
    if (!drawing.is_root()) continue;
    drawing.timed("text_encoder", ctx, [&] {
      for (const CaptionMemory::TextBatch& batch : memory.batches) {
        if (pass == 0) take_ids(ctx, prompts, batch);
        batch.encoding->run(ctx, pass);
      }
    });
  }
}

/// On rank 0: embeddings that are kept are taken from there, and copies of the others begin to be made.
CaptionCopies take_kept(Drawing& drawing, const PromptSet& prompts, View embeddings) {
  const RankProcess& process = drawing.rank.process;
  CaptionCopies copies;
  for (size_t i = 0; i < prompts.kept.size(); ++i) {
    const View caption = rows_of(embeddings, prompts.rows, {i, 1});
    if (prompts.kept[i] != nullptr) {
      upload(process.ctx, *prompts.kept[i], caption);
      ++drawing.report.kept_captions;
    } else if (process.captions != nullptr) {
      copies.emplace_back(i, Tensor(Device{}, caption.dtype(), caption.shape()));
      download(process.ctx, caption, copies.back().second);
    }
  }
  return copies;
}

}  // namespace

PromptSet tokenize(Drawing& drawing, std::span<const Prompt> prompts) {
  PromptSet set{.adapters = drawing.parts().embedding_adapters()};
  std::vector<int64_t> lengths(prompts.size());
  KeptCaptions* const kept = drawing.rank.process.captions;
  if (drawing.is_root()) {
    for (size_t i = 0; i < prompts.size(); ++i) {
      const PromptTokens& tokens =
          set.tokens.emplace_back(drawing.family().tokenize(prompts[i].text, prompts[i].max_tokens));
      lengths[i] = std::ssize(tokens.ids);
    }
    tell_truncated(drawing, prompts, set);
  }
  drawing.world().broadcast(host_bytes(std::span(lengths)), kRoot).wait();
  for (size_t i = 0; i < prompts.size(); ++i) {
    const PromptLength& length = set.lengths.emplace_back(lengths[i], prompts[i].max_tokens);
    set.rows.push_back(drawing.family().embedding_shape(length)[0]);
    if (drawing.is_root()) set.kept.push_back(kept != nullptr ? kept->find(set.key(i)) : nullptr);
  }
  return set;
}

CaptionMemory take_caption_memory(Arena& arena, const Drawing& drawing, const PromptSet& prompts) {
  const Family& family = drawing.family();
  const int64_t width = family.embedding_shape(prompts.lengths.front())[1];
  CaptionMemory memory{take(arena, DType::f32, {sum(prompts.rows), width}), {}};
  if (!drawing.is_root()) return memory;
  for (const Batch& batch : batches_of(drawing, prompts)) {
    const std::span<const PromptLength> lengths = std::span(prompts.lengths).subspan(batch.first, batch.count);
    const View embeddings = rows_of(memory.embeddings, prompts.rows, batch);
    CaptionKey key{{lengths.begin(), lengths.end()}, embeddings.bytes(), arena.used_bytes()};
    memory.batches.push_back({batch, family.take_prompts(arena, lengths, embeddings), std::move(key)});
  }
  const size_t mark = arena.used_bytes();
  for (CaptionMemory::TextBatch& batch : memory.batches) {
    arena.rewind(mark);
    batch.key.scratch = mark;
    batch.encoding->take_scratch(arena);
  }
  return memory;
}

CaptionCopies make_captions(Drawing& drawing, const PromptSet& prompts, const CaptionMemory& memory) {
  Context& ctx = drawing.rank.process.ctx;
  if (drawing.takes_turns()) {
    encode_in_turns(drawing, prompts, memory);
  } else {
    drawing.enter_stage("text");
    if (drawing.is_root()) {
      drawing.timed("text_encoder", ctx, [&] {
        for (const CaptionMemory::TextBatch& batch : memory.batches) {
          take_ids(ctx, prompts, batch);
          encode(drawing, batch);
        }
      });
    }
  }
  CaptionCopies copies;
  if (drawing.is_root()) {
    copies = take_kept(drawing, prompts, memory.embeddings);
    // What follows is ordered with the rank's own work.
    if (drawing.rank.shares_parts()) ctx.synchronize("captions");
  }
  const View all = memory.embeddings;
  drawing.world().broadcast({all.bytes(), all.size_in_bytes(), drawing.ctx().device()}, kRoot).wait();
  return copies;
}

void keep_captions(Drawing& drawing, const PromptSet& prompts, CaptionCopies copies) {
  for (auto& [prompt, copy] : copies) drawing.rank.process.captions->insert(prompts.key(prompt), std::move(copy));
}

std::vector<ConstView> embeddings_of(const CaptionMemory& memory, const PromptSet& prompts) {
  std::vector<ConstView> embeddings;
  for (size_t i = 0; i < prompts.rows.size(); ++i)
    embeddings.push_back(rows_of(memory.embeddings, prompts.rows, {i, 1}));
  return embeddings;
}

}  // namespace nostos
