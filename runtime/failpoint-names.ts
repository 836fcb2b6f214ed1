/**
 * Every failpoint, by name, with the place that it marks: `<area>.<step>.<before|after>`. The harness of test/chaos
 * arms them, and checks that its runs pass each of them.
 */
export const failpoints = {
  'kvstore.group.before': 'a group of writes is about to be sent to PostgreSQL',
  'kvstore.group.after': 'the group is committed, and nobody has been told',
  'kvstore.commit.before': 'the statements of a batch are done, COMMIT is about to be sent',
  'kvstore.commit.after': 'the batch is committed, and nobody has been told',

  'capture.slot.before': 'the replication slot is about to be looked for',
  'capture.slot.after': 'the slot is there',
  'capture.seat.before': 'the capture is about to wait for the seat',
  'capture.seat.after': 'the capture has the seat, and has done nothing with it',
  'capture.open.before': 'the log is about to be taken over',
  'capture.open.after': 'the tails of the log are known',
  'capture.free.before': 'a walsender that still holds the slot is about to be ended',
  'capture.free.after': 'nobody holds the slot',
  'capture.stream.before': 'the stream is about to be opened',
  'capture.stream.after': 'the stream is open',
  'capture.receive.before': 'a message of the stream has come and was not looked at',
  'capture.visible.before': 'transactions are about to be waited for until they are visible',
  'capture.visible.after': 'the transactions are visible, and nothing of them was appended',
  'capture.append.before': 'records are about to be appended',
  'capture.append.after': 'the records are in the log, and the capture has not taken note of it',
  'capture.confirm.before': 'what was appended is about to be confirmed to PostgreSQL',
  'capture.confirm.after': 'the confirmation was handed to the stream',
  'capture.leave.before': 'the capture ends, and is about to give up its seat',

  'log.embedded.takeover.before': 'a new writer is about to end its predecessors and raise the generation',
  'log.embedded.takeover.after': 'the generation is raised, the tails are not read yet',
  'log.embedded.append.before': 'a COPY into the log is about to be sent',
  'log.embedded.append.after': 'the COPY is committed, and the writer has not taken note of it',
  'log.embedded.fetch.before': 'a reader is about to read the table',
  'log.embedded.fetch.after': 'the reader has rows, and has delivered nothing',
  'log.embedded.trim.before': 'old records are about to be deleted',
  'log.embedded.trim.after': 'old records are deleted',
  'log.embedded.enter.before': 'a member has a seat, and is about to enter itself into the list of members',
  'log.embedded.enter.after': 'the member is in the list, and has told nobody',

  'log.kafka.open.before': 'a new writer is about to connect',
  'log.kafka.open.after': 'the writer has read the tails',
  'log.kafka.send.before': 'a request is about to be sent',
  'log.kafka.send.after': 'Kafka has acknowledged a request, and the writer has not taken note of it',
  'log.kafka.fetch.before': 'a fetch is about to be sent',
  'log.kafka.fetch.after': 'the fetch has answered, and nothing was delivered',

  'group.assign.before': 'a partition was given to this member, whose handler is about to be asked',
  'group.assign.after': 'the handler has said where to go on from, and nothing was read',
  'group.revoke.before': 'a partition is about to be given up',
  'group.revoke.after': 'the handler knows that the partition is gone, the others do not',

  'consumer.takeover.before': 'a checkpoint is about to be taken over',
  'consumer.takeover.after': 'the checkpoint is ours',
  'consumer.bootstrap.before': 'a partition is about to be derived from the state',
  'consumer.bootstrap.after': 'the partition is derived, and that is recorded',
  'consumer.handle.before': 'changes are about to be given to the handler',
  'consumer.handle.after': 'effects and checkpoint are committed, and the consumer has not taken note of it',
  'checkpoint.takeover.before': 'the checkpoint was read, and is about to be written',
  'checkpoint.takeover.after': 'the checkpoint is written, and its new owner has not taken note of it',
  'checkpoint.commit.before': 'a batch of effects and checkpoint is about to be sent',
  'checkpoint.commit.after': 'the batch is committed, and its owner has not taken note of it',
  'checkpoint.settle.before':
    'a batch has failed, and the checkpoint is about to be read to learn what became of it',

  'broadcast.start.before': 'the log is about to be read into the ring',
  'broadcast.start.after': 'the ring is caught up, and no feed was opened',
  'broadcast.take.before': 'a batch of the log has come and is not in the ring',
  'broadcast.take.after': 'the batch is in the ring, and readers were not woken',
  'feed.snapshot.before': 'a feed is about to read its snapshot',
  'feed.snapshot.after': 'the feed has its snapshot, and has sent nothing',
  'feed.send.before': 'a message of a feed is about to be sent',
  'feed.send.after': 'the reader has taken the message',
} as const;

export type Failpoint = keyof typeof failpoints;

export function isFailpoint(name: string): name is Failpoint {
  return Object.hasOwn(failpoints, name);
}
