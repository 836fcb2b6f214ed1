import type { LogReader, LogWriter } from '../../types.ts';
import type { KafkaOptions } from './client.ts';
import { KafkaReader } from './reader.ts';
import { ensureTopic } from './topic.ts';
import { KafkaWriter } from './writer.ts';

export type { KafkaOptions } from './client.ts';

/**
 * The writer's side of the log in a Kafka topic, which is created where it is missing.
 * @throws Error where no broker answers, or the topic has another number of partitions
 */
export async function createKafkaWriter(options: KafkaOptions): Promise<LogWriter> {
  await ensureTopic(options);
  return new KafkaWriter(options);
}

/** The readers' side. @throws Error as createKafkaWriter */
export async function createKafkaReader(options: KafkaOptions): Promise<LogReader> {
  await ensureTopic(options);
  return new KafkaReader(options);
}
