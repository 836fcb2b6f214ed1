import type { Admin } from 'kafkajs';
import { messageOf } from '../../../runtime/errors.ts';
import { Client, type KafkaOptions } from './client.ts';
import { retrying } from './retrying.ts';

/** The largest record: a value and the value before it, of 3 MiB each (kvstore's limit), with what JSON and Kafka add. */
export const maxRecordBytes = 8 << 20;

/** How long brokers may take to create it: a little less than the request may, which is not sent again. */
const creationMs = 9_000;

/**
 * Makes sure that the topic is there.
 * @throws Error where no broker answers, the topic cannot be created, or it has another number of partitions
 */
export async function ensureTopic(options: KafkaOptions): Promise<void> {
  const client = new Client(options, 'conger-admin');
  const admin = client.kafka.admin();
  try {
    await admin.connect();
    const topics = await admin.listTopics();
    if (!topics.includes(options.topic)) await create(admin, options);
    const found = await retrying('reading the topic', 10, () => countPartitions(admin, options.topic));
    if (found !== options.partitions) {
      throw new Error(
        `topic ${options.topic} has ${found} partitions and CONGER_PARTITIONS is ${options.partitions}: ` +
          'the number is fixed once the topic exists, as the order of changes rests on it',
      );
    }
  } finally {
    await admin.disconnect().catch(() => {});
    client.cut();
  }
}

async function countPartitions(admin: Admin, topic: string): Promise<number> {
  const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
  const found = topics.find(({ name }) => name === topic);
  if (found === undefined) throw new Error(`topic ${topic} is not known yet`);
  return found.partitions.length;
}

async function create(admin: Admin, options: KafkaOptions): Promise<void> {
  const entries: Readonly<Record<string, string>> = {
    'cleanup.policy': 'delete',
    // By the time of arrival: the commit time may be days old when a long backlog is captured, or be off altogether.
    'message.timestamp.type': 'LogAppendTime',
    'retention.ms': String(options.retainMs ?? -1),
    'retention.bytes': String(
      options.retainBytes === undefined ? -1 : Math.ceil(options.retainBytes / options.partitions),
    ),
    'max.message.bytes': String(maxRecordBytes),
    'min.insync.replicas': options.replicas >= 3 ? '2' : '1',
    'unclean.leader.election.enable': 'false',
  };
  try {
    // False when another process has created it in the meantime.
    const created = await admin.createTopics({
      // kafkajs gives up where a broker does not know the new topic at once; whoever counts its partitions waits.
      waitForLeaders: false,
      timeout: creationMs,
      topics: [
        {
          topic: options.topic,
          numPartitions: options.partitions,
          replicationFactor: options.replicas,
          configEntries: Object.entries(entries).map(([name, value]) => ({ name, value })),
        },
      ],
    });
    if (created) options.log.info({ topic: options.topic, partitions: options.partitions }, 'topic created');
  } catch (error) {
    const causes: unknown = error instanceof Error && 'errors' in error ? error.errors : undefined;
    const words = Array.isArray(causes) ? causes.map(messageOf).join('; ') : messageOf(error);
    throw new Error(`topic ${options.topic} cannot be created: ${words}`, { cause: error });
  }
}
