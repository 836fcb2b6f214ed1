import { runService } from '../common/service.ts';
import { feedRoute } from './routes/feed.ts';
import { overviewRoutes } from './routes/overview.ts';
import { pageRoutes } from './routes/page.ts';

runService('adminui', async (context) => {
  await pageRoutes(context);
  overviewRoutes(context);
  feedRoute(context);
});
