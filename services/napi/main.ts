import { runService } from '../common/service.ts';
import { setupNapi } from './setup.ts';

runService('napi', setupNapi);
