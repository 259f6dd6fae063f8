// Implements the link by copies between meetings.
#include "cuda/meeting_link.h"

#include <set>
#include <vector>

#include "device/cuda/runtime.h"

namespace nostos::test {

void MeetingLink::send_receive(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives, Stream& stream) {
  std::set<int> peers{rank_};
  std::vector<const std::byte*> from;
  {
    std::unique_lock lock(mail_.mutex);
    for (const SendTo& send : sends) {
      peers.insert(send.peer);
      mail_.sent[{rank_, send.peer}].push_back(send.bytes.data);
    }
    mail_.changed.notify_all();
    for (const ReceiveFrom& receive : receives) {
      peers.insert(receive.peer);
      std::deque<const std::byte*>& sent = mail_.sent[{receive.peer, rank_}];
      mail_.changed.wait(lock, [&sent] { return !sent.empty(); });
      from.push_back(sent.front());
      sent.pop_front();
    }
  }
  const std::vector<int> members(peers.begin(), peers.end());
  memory_->fence(members, stream);
  for (size_t i = 0; i < from.size(); ++i)
    cuda::copy_async(receives[i].bytes.data, from[i], receives[i].bytes.bytes, stream.handle());
  memory_->fence(members, stream);
}

void MeetingLink::copy(ByteView to, ConstByteView from, Stream& stream) {
  cuda::copy_async(to.data, from.data, from.bytes, stream.handle());
}

}  // namespace nostos::test
