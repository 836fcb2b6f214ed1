import { openLogReader } from '../../changefeed/log/index.ts';
import { loadConfig } from '../../runtime/config.ts';
import { silentLogger } from '../../runtime/log.ts';
import { now } from './clock.ts';

// A process that tells its parent how long each change took, whose body says when its statement was sent.
const reader = await openLogReader(loadConfig(), silentLogger());
await reader.readAll(0, ({ records }) => {
  const at = now();
  process.send?.(records.map((record) => at - (JSON.parse(record.body.toString()) as { sent: number }).sent));
});
process.send?.('reading');
process.once('disconnect', () => process.exit());
