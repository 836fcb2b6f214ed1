import type { ServiceContext } from '../common/service.ts';
import { feedRoute } from './routes/feed.ts';
import { overviewRoutes } from './routes/overview.ts';
import { pageRoutes } from './routes/page.ts';
import { FileWatch } from './watch.ts';

/** adminui on a service's context: the page, and what it reads. */
export async function setupAdminui(context: ServiceContext): Promise<void> {
  const instances = new FileWatch(context.config.endpointsFile, context.log);
  context.shutdown.add('watch', () => instances.close());
  await pageRoutes(context);
  overviewRoutes(context);
  feedRoute(context, instances);
}
