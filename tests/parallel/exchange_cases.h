// Owns the exchanges that every backend must get right bit for bit, run by each rank of a communicator.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "parallel/communicator.h"

namespace nostos::exchange_cases {

/// The byte at `index` of the message from `from` to `to` in `round`: any lost, swapped or stale byte shows.
inline std::byte byte_of(uint64_t round, int from, int to, size_t index) {
  uint64_t x = (round * 64 + static_cast<uint64_t>(from)) * 64 + static_cast<uint64_t>(to) + 1;
  x = (x * 0x9E3779B97F4A7C15u) ^ (index * 0xC2B2AE3D27D4EB4Fu);
  return static_cast<std::byte>((x ^ (x >> 29)) >> 8);
}

/// Parts of the given sizes one after the other, with a gap of `gap_bytes` before each.
inline std::vector<Part> lay_out(const std::vector<size_t>& sizes, size_t gap_bytes = 0) {
  std::vector<Part> parts;
  size_t offset = 0;
  for (const size_t bytes : sizes) {
    parts.push_back({offset + gap_bytes, bytes});
    offset += gap_bytes + bytes;
  }
  return parts;
}

inline size_t end_of(const std::vector<Part>& parts) {
  return parts.empty() ? 0 : parts.back().offset_bytes + parts.back().bytes;
}

/// Sends send_parts[p] of `send` to every rank p and receives receive_parts[p] from it.
[[nodiscard]] inline Pending all_to_all(Communicator& comm, ConstByteView send, std::span<const Part> send_parts,
                                        ByteView receive, std::span<const Part> receive_parts) {
  std::vector<SendTo> sends;
  std::vector<ReceiveFrom> receives;
  for (int peer = 0; peer < comm.world(); ++peer) {
    sends.push_back({peer, send.part(send_parts[static_cast<size_t>(peer)])});
    receives.push_back({peer, receive.part(receive_parts[static_cast<size_t>(peer)])});
  }
  return comm.exchange("all_to_all", sends, receives);
}

/// Buffers of one all_to_all whose sizes every rank derives from `round`: uneven, a third of them zero.
struct AllToAll {
  AllToAll(const Communicator& comm, uint64_t round, size_t max_bytes)
      : round(round), rank(comm.rank()), world(comm.world()) {
    std::vector<size_t> sent, received;
    for (int peer = 0; peer < world; ++peer) {
      sent.push_back(message_bytes(rank, peer, max_bytes));
      received.push_back(message_bytes(peer, rank, max_bytes));
    }
    send_parts = lay_out(sent, round % 3);
    receive_parts = lay_out(received, round % 5);
    send.resize(end_of(send_parts));
    receive.assign(end_of(receive_parts) + 1, kUntouched);
    for (int peer = 0; peer < world; ++peer)
      for (size_t i = 0; i < send_parts[peer].bytes; ++i)
        send[send_parts[peer].offset_bytes + i] = byte_of(round, rank, peer, i);
  }

  size_t message_bytes(int from, int to, size_t max_bytes) const {
    std::mt19937_64 random(round * 10007 + static_cast<uint64_t>(from * 101 + to));
    return random() % 3 == 0 ? 0 : random() % (max_bytes + 1);
  }

  [[nodiscard]] Pending start(Communicator& comm) {
    return all_to_all(comm, host_bytes(std::span<const std::byte>(send)), send_parts, host_bytes(std::span(receive)),
                      receive_parts);
  }

  void verify() const {
    std::vector<std::byte> wanted(receive.size(), kUntouched);
    for (int peer = 0; peer < world; ++peer)
      for (size_t i = 0; i < receive_parts[peer].bytes; ++i)
        wanted[receive_parts[peer].offset_bytes + i] = byte_of(round, peer, rank, i);
    EXPECT_TRUE(receive == wanted) << "round " << round << " rank " << rank << " of " << world;
  }

  static constexpr std::byte kUntouched{0xEE};
  uint64_t round;
  int rank, world;
  std::vector<Part> send_parts, receive_parts;
  std::vector<std::byte> send, receive;
};

inline void all_to_all_rounds(Communicator& comm, int rounds, size_t max_bytes) {
  for (int round = 0; round < rounds; ++round) {
    AllToAll exchange(comm, static_cast<uint64_t>(round), max_bytes);
    exchange.start(comm).wait();
    exchange.verify();
  }
}

/// Several exchanges under way at once, waited for in an order that differs from rank to rank.
inline void overlapping(Communicator& comm, int rounds, size_t max_bytes) {
  for (int round = 0; round < rounds; ++round) {
    std::vector<AllToAll> exchanges;
    for (int i = 0; i < 4; ++i) exchanges.emplace_back(comm, static_cast<uint64_t>(round * 4 + i), max_bytes);
    std::vector<Pending> pending;
    for (AllToAll& exchange : exchanges) pending.push_back(exchange.start(comm));
    std::vector<size_t> order(exchanges.size());
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), std::mt19937(static_cast<unsigned>(round * 64 + comm.rank())));
    for (const size_t i : order) {
      pending[i].wait();
      exchanges[i].verify();
    }
  }
}

/// Rank p contributes p * 1000 + 1 bytes in even rounds and, zero among them, p * 7 % 3 bytes in odd ones; in place or
/// from outside.
inline void all_gather(Communicator& comm, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    std::vector<size_t> sizes;
    for (int peer = 0; peer < comm.world(); ++peer)
      sizes.push_back(static_cast<size_t>(round % 2 == 0 ? peer * 1000 + 1 : peer * 7 % 3));
    const std::vector<Part> parts = lay_out(sizes);
    std::vector<std::byte> gathered(end_of(parts), AllToAll::kUntouched);
    const ByteView all = host_bytes(std::span(gathered));
    std::vector<std::byte> own(sizes[comm.rank()]);
    const ByteView mine = round % 3 == 0 ? all.part(parts[comm.rank()]) : host_bytes(std::span(own));
    for (size_t i = 0; i < mine.bytes; ++i) mine.data[i] = byte_of(round, comm.rank(), 0, i);
    comm.all_gather(mine, all, parts).wait();
    for (int peer = 0; peer < comm.world(); ++peer)
      for (size_t i = 0; i < parts[peer].bytes; ++i)
        ASSERT_EQ(gathered[parts[peer].offset_bytes + i], byte_of(round, peer, 0, i)) << "from " << peer << " at " << i;
  }
}

inline void broadcast(Communicator& comm) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4097}, size_t{300000}}) {
    for (int root = 0; root < comm.world(); ++root) {
      std::vector<std::byte> buffer(bytes);
      if (comm.rank() == root)
        for (size_t i = 0; i < bytes; ++i) buffer[i] = byte_of(bytes, root, 1, i);
      comm.broadcast(host_bytes(std::span(buffer)), root).wait();
      for (size_t i = 0; i < bytes; ++i)
        ASSERT_EQ(buffer[i], byte_of(bytes, root, 1, i)) << "root " << root << " at " << i;
    }
  }
}

/// Sums whose value depends on the order: rank order must be kept, and ranks must agree to the last bit.
inline void all_reduce(Communicator& comm) {
  const auto value = [](int rank, size_t i) {
    return (rank % 2 == 0 ? 1e16 : -1e16) + rank + 0.25 * static_cast<double>(i);
  };
  for (const size_t count : {size_t{0}, size_t{1}, size_t{33}}) {
    std::vector<double> values(count);
    std::vector<int64_t> integers(count);
    for (size_t i = 0; i < count; ++i) {
      values[i] = value(comm.rank(), i);
      integers[i] = INT64_MAX - comm.rank() * 5 - static_cast<int64_t>(i);
    }
    comm.all_reduce_sum(std::span(values));
    comm.all_reduce_sum(std::span(integers));
    for (size_t i = 0; i < count; ++i) {
      double sum = value(0, i);
      uint64_t integer_sum = 0;
      for (int rank = 1; rank < comm.world(); ++rank) sum += value(rank, i);
      for (int rank = 0; rank < comm.world(); ++rank) integer_sum += static_cast<uint64_t>(INT64_MAX - rank * 5) - i;
      EXPECT_EQ(values[i], sum);
      EXPECT_EQ(integers[i], static_cast<int64_t>(integer_sum));
    }
  }
}

/// A ring shift inside groups of even and of odd ranks, beside a collective of the parent.
inline void groups(Communicator& comm) {
  std::vector<int> ranks;
  for (int rank = comm.rank() % 2; rank < comm.world(); rank += 2) ranks.insert(ranks.begin(), rank);
  GroupCommunicator group(comm, ranks);
  ASSERT_EQ(ranks[group.rank()], comm.rank());
  const int next = (group.rank() + 1) % group.world(), previous = (group.rank() + group.world() - 1) % group.world();
  for (int round = 0; round < 10; ++round) {
    const int64_t mine = comm.rank() * 1000 + round;
    int64_t got = -1;
    const std::vector<SendTo> sends{{next, host_bytes(std::span(&mine, 1))}};
    const std::vector<ReceiveFrom> receives{{previous, host_bytes(std::span(&got, 1))}};
    Pending shift = group.exchange("ring shift", sends, receives);
    std::vector<int64_t> one{1};
    comm.all_reduce_sum(std::span(one));
    shift.wait();
    EXPECT_EQ(one[0], comm.world());
    EXPECT_EQ(got, ranks[previous] * 1000 + round);
    std::vector<int64_t> sum{comm.rank()};
    group.all_reduce_sum(std::span(sum));
    EXPECT_EQ(sum[0], std::accumulate(ranks.begin(), ranks.end(), int64_t{0}));
  }
}

/// Counts what this rank sends to others, not to itself.
inline void traffic(Communicator& comm) {
  const Traffic before = comm.traffic();
  std::vector<std::byte> send(10), receive(10 * static_cast<size_t>(comm.world()));
  const std::vector<Part> parts = lay_out(std::vector<size_t>(comm.world(), 10));
  comm.all_gather(host_bytes(std::span(send)), host_bytes(std::span(receive)), parts).wait();
  const uint64_t peers = static_cast<uint64_t>(comm.world() - 1);
  EXPECT_EQ(comm.traffic().bytes - before.bytes, 10 * peers);
  EXPECT_EQ(comm.traffic().messages - before.messages, peers);
}

/// All of the above.
inline void everything(Communicator& comm, int rounds) {
  all_to_all_rounds(comm, rounds, 5000);
  all_to_all_rounds(comm, 3, 1 << 20);
  overlapping(comm, rounds / 4, 20000);
  all_gather(comm, rounds / 4);
  broadcast(comm);
  all_reduce(comm);
  groups(comm);
  traffic(comm);
  for (int i = 0; i < rounds; ++i) comm.barrier();
}

}  // namespace nostos::exchange_cases
