import { runService } from '../common/service.ts';
import { setupCnapi } from './setup.ts';

runService('cnapi', setupCnapi);
