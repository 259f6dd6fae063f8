// Implements the ranks of a process, and the lanes made of them.
#include "pipeline/places.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "io/folder_cache.h"
#include "ops/linear.h"
#include "parallel/shard_plan.h"
#include "parallel/thread_communicator.h"

namespace nostos {
namespace {

void require_int8(Context& ctx, const char* flag) {
  require(ops::capabilities(ctx.device()).int8_products, ErrorKind::device,
          "{} int8 wants a GPU or a CPU with AVX-512 VNNI, and {} is neither: leave it out", flag,
          to_string(ctx.device()));
}

DType choose_dtype(Context& ctx, const EngineOptions& options) {
  const Precision precision = options.precision;
  for (const Precision own : {options.text_precision, options.attention_precision})
    require(own == Precision::automatic || own == Precision::int8, ErrorKind::invalid_input,
            "the precision of the text encoder and that of attention are automatic or int8");
  log_debug("{}: {}", to_string(ctx.device()), to_string(ops::capabilities(ctx.device())));
  if (precision == Precision::f32) return DType::f32;
  const bool has_bf16 = ops::has_bf16_products(ctx);
  require(precision != Precision::bf16 || has_bf16, ErrorKind::device,
          "--precision bf16 wants a CPU with AVX-512 BF16; this one has none: use f32 or auto");
  if (precision == Precision::int8) require_int8(ctx, "--precision");
  if (options.text_precision == Precision::int8) require_int8(ctx, "--text-precision");
  return has_bf16 ? DType::bf16 : DType::f32;
}

FamilyOptions family_options(const EngineOptions& options, DType dtype) {
  return {.files = options.model,
          .dtype = dtype,
          .synthetic = options.synthetic,
          .synthetic_format = options.synthetic_format,
          .synthetic_hostile = options.synthetic_hostile,
          .variant = options.variant,
          .rounds_products = options.precision == Precision::int8,
          .rounds_text = options.text_precision == Precision::int8,
          .rounds_scores = options.attention_precision == Precision::int8,
          .kept_products = options.kept_products,
          .input_watch = options.input_watch};
}

bool has(const Places::List& places, int place) { return std::ranges::find(places, place) != places.end(); }

Places::List without(const Places::List& all, const Places::List& others) {
  Places::List rest;
  std::ranges::copy_if(all, std::back_inserter(rest), [&](int place) { return !has(others, place); });
  return rest;
}

Places::List first_places(size_t count) {
  Places::List all(count);
  for (size_t place = 0; place < count; ++place) all[place] = static_cast<int>(place);
  return all;
}

}  // namespace

LoadedModel::LoadedModel(const EngineOptions& options, Device device, int threads, int64_t sharers)
    : ctx(device, threads, FolderCache::in(options.cache_folder)),
      dtype(choose_dtype(ctx, options)),
      parts(ctx, family_options(options, dtype), resolve_memory(options.memory, device, sharers)) {}

Places::Places(const EngineOptions& options, Communicator* processes)
    : options_(options),
      processes_(processes),
      threads_(Context({}, options.threads).threads()),
      has_gpu_each_(options.device_per_rank && options.device.kind == DeviceKind::cuda),
      captions_(options.kept_caption_bytes) {
  const auto places = static_cast<size_t>(processes == nullptr ? options.parallelism.ranks() : 1);
  models_.resize(options.device_per_rank ? places : 1);
  whole_.resize(places);
  ranks_.resize(places);
  uses_.resize(places);
  link_of(first_places(places));
  if (processes != nullptr)
    load(*processes);
  else
    run_thread_ranks(static_cast<int>(models_.size()), [this](Communicator& host) { load(host); },
                     {options.comm_timeout_s});
  for (size_t place = 0; place < places; ++place)
    if (!ranks_[place]) make_rank(place, std::make_unique<Context>(options.device, share_of_threads(place, places)));
}

int Places::share_of_threads(size_t place, size_t sharers) const {
  const std::vector<parallel::Range> shares = parallel::split(threads_, static_cast<int64_t>(sharers));
  return static_cast<int>(std::max<int64_t>(shares[place].count, 1));
}

void Places::make_rank(size_t place, std::unique_ptr<Context> own_context) {
  LoadedModel& model = *models_[models_.size() == 1 ? 0 : place];
  // Lanes that draw at once have a root each, which works for its lane alone.
  if (place > 0 && models_.size() == 1) whole_[place] = std::make_unique<Context>(options_.device, model.ctx.threads());
  const RankProcess process{whole_[place] ? *whole_[place] : model.ctx, model.parts,
                            options_.kept_caption_bytes > 0 ? &captions_ : nullptr};
  ranks_[place] = std::make_unique<Rank>(process, std::move(own_context));
}

/// One device's part, for its place and, where there is one for all, for the others.
void Places::load(Communicator& host) {
  const size_t places = ranks_.size(), place = processes_ == nullptr ? static_cast<size_t>(host.rank()) : 0;
  Device device = options_.device;
  if (device.kind == DeviceKind::cuda) device.index += static_cast<int>(place);
  models_[place] = std::make_unique<LoadedModel>(options_, device, share_of_threads(place, models_.size()),
                                                 static_cast<int64_t>(models_.size() == 1 ? places : 1));
  LoadedModel& model = *models_[place];
  int64_t ranks_in_need = model.parts.wants_one_at_a_time(model.ctx);
  host.all_reduce_sum(std::span(&ranks_in_need, 1));
  model.parts.set_one_at_a_time(ranks_in_need > 0);
  if (models_.size() == places) {
    make_rank(place, nullptr);
    if (Link* const link = link_of(first_places(places))) connected(*link, place, host, *ranks_[place]);
  }
  model.parts.load_ahead(model.ctx, host.rank() == 0 || options_.lanes);
}

Places::~Places() {
  for (const std::unique_ptr<Rank>& rank : ranks_)
    if (rank) rank->memory.forget();  // recorded steps go before the links they use
  for (auto& [lane, link] : links_) end(lane, link);
}

Places::List Places::lost() const {
  List lost;
  for (int place = 0; place < count(); ++place) {
    try {
      const Event probe(ranks_[static_cast<size_t>(place)]->ctx.device());
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::device_lost) throw;
      lost.push_back(place);
    }
  }
  return lost;
}

void Places::read_adapters_by(const std::shared_ptr<AdapterFiles>& files) {
  for (const auto& model : models_) model->parts.read_adapters_by(files);
}

void Places::require_lane(const List& places) const {
  require(!places.empty(), ErrorKind::invalid_input, "a lane has no places: give it one at least");
  for (const int place : places) {
    require(place >= 0 && place < count(), ErrorKind::invalid_input,
            "a lane names place {} of an engine with {}: use 0 to {}", place, count(), count() - 1);
    require(std::ranges::count(places, place) == 1, ErrorKind::invalid_input, "a lane names place {} twice", place);
  }
}

void Places::take(const List& wanted) {
  std::unique_lock lock(mutex_);
  const auto use_of = [&](int place) -> Use& { return uses_[static_cast<size_t>(place)]; };
  changed_.wait(lock, [&] { return std::ranges::count(wanted, Use::ending, use_of) == 0; });
  for (const int place : wanted)
    require(use_of(place) == Use::none, ErrorKind::invalid_input, "a lane names place {}, which another drawing has",
            place);
  for (const int place : wanted) use_of(place) = Use::drawing;
}

void Places::give_back(const List& held) {
  {
    const std::lock_guard lock(mutex_);
    for (const int place : held) uses_[static_cast<size_t>(place)] = Use::none;
  }
  changed_.notify_all();
}

void Places::begin_drawing(const std::vector<AdapterUse>& adapters) {
  if (models_.size() == ranks_.size()) return;
  std::unique_lock lock(mutex_);
  const ModelParts& parts = model().parts;
  const auto wants_it_alone = [&] { return parts.one_at_a_time() || !same_changes(parts.adapters(), adapters); };
  const uint64_t turn = next_turn_++;
  // A drawing alone with the model may be changing its adapters.
  changed_.wait(lock, [&] { return turn == turn_ && (drawings_ == 0 || (!is_alone_ && !wants_it_alone())); });
  if (drawings_++ == 0) is_alone_ = wants_it_alone();
  ++turn_;
  changed_.notify_all();
}

void Places::end_drawing() {
  if (models_.size() == ranks_.size()) return;
  {
    const std::lock_guard lock(mutex_);
    --drawings_;
  }
  changed_.notify_all();
}

Places::Hold::Hold(Places& places, const List& wanted, const std::vector<AdapterUse>& adapters) : places_(places) {
  places_.require_lane(wanted);
  places_.take(wanted);
  held_ = wanted;
  places_.begin_drawing(adapters);
}

Places::Hold::~Hold() {
  places_.end_drawing();
  places_.give_back(held_);
}

void Places::Hold::add(const List& wanted) {
  places_.require_lane(wanted);
  const List others = without(wanted, held_);
  places_.take(others);
  held_.insert(held_.end(), others.begin(), others.end());
}

void Places::Hold::keep(const List& kept) {
  const List given = without(held_, kept);
  held_ = kept;
  places_.give_back(given);
}

void Places::run(const List& lane, const std::function<void(Rank& rank, Communicator& world)>& body) {
  Link* const link = link_of(lane);
  const auto on_rank = [&](Communicator& host) {
    const size_t index = processes_ == nullptr ? static_cast<size_t>(host.rank()) : 0;
    Rank& rank = *ranks_[static_cast<size_t>(lane[index])];
    body(rank, link == nullptr ? host : connected(*link, index, host, rank));
  };
  if (processes_ != nullptr) return on_rank(*processes_);
  run_thread_ranks(static_cast<int>(lane.size()), on_rank, {options_.comm_timeout_s});
}

/// \return what connects the GPUs of the lane, which lasts as long as a drawing has its places; null where hosts do.
Places::Link* Places::link_of(const List& lane) {
  // A lane of one has nobody to reach; an engine of one rank is connected where it was asked for.
  if (!has_gpu_each_ || (lane.size() == 1 && count() > 1)) return nullptr;
  end_oldest_link(lane);
  const std::lock_guard lock(mutex_);
  Link& link = links_[lane];
  link.gpus.resize(lane.size());
  link.last_use = ++link_uses_;
  return &link;
}

Communicator& Places::connected(Link& link, size_t index, Communicator& host, Rank& rank) const {
  std::unique_ptr<NcclCommunicator>& gpus = link.gpus[index];
  if (gpus)
    gpus->meet_on(host);
  else
    gpus = std::make_unique<NcclCommunicator>(host, rank.ctx.device(),
                                              CommunicatorOptions{options_.comm_timeout_s, options_.peer_memory});
  return *gpus;
}

void Places::end_oldest_link(const List& own) {
  std::unique_lock lock(mutex_);
  if (links_.size() < kKeptLinks || links_.contains(own)) return;
  auto oldest = links_.end();
  for (auto link = links_.begin(); link != links_.end(); ++link) {
    const bool is_free = std::ranges::all_of(
        link->first, [&](int place) { return has(own, place) || uses_[static_cast<size_t>(place)] == Use::none; });
    if (is_free && (oldest == links_.end() || link->second.last_use < oldest->second.last_use)) oldest = link;
  }
  if (oldest == links_.end()) return;
  auto ended = links_.extract(oldest);
  const List borrowed = without(ended.key(), own);
  for (const int place : borrowed) uses_[static_cast<size_t>(place)] = Use::ending;
  lock.unlock();
  for (const int place : ended.key()) ranks_[static_cast<size_t>(place)]->memory.forget();
  end(ended.key(), ended.mapped());
  give_back(borrowed);
}

/// Ends a link on all its ranks together: each waits for the others' part of its end. Nothing recorded uses it.
void Places::end(const List& lane, Link& link) noexcept {
  try {
    run_thread_ranks(static_cast<int>(lane.size()),
                     [&](Communicator& host) { link.gpus[static_cast<size_t>(host.rank())].reset(); });
  } catch (const std::exception& error) {
    log_warning("the GPUs were not disconnected in order: {}", error.what());
  }
}

void Places::disconnect(const List& lane) noexcept {
  for (const int place : lane) ranks_[static_cast<size_t>(place)]->memory.forget();
  std::unique_lock lock(mutex_);
  const auto known = links_.extract(lane);
  lock.unlock();
  if (known.empty()) return;
  for (const std::unique_ptr<NcclCommunicator>& gpus : known.mapped().gpus)
    if (gpus) gpus->leave();
}

}  // namespace nostos
