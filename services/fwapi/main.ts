import { runService } from '../common/service.ts';
import { setupFwapi } from './setup.ts';

runService('fwapi', setupFwapi);
