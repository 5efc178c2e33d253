/** Runs the campaign of `view.test.ts` in a process with other flags: `view.test.peer.js SEED ROUNDS`. */
import { mayGenerate } from "../compile/generate.js";
import { runCampaign } from "./view.test.util.js";

const [seed, rounds] = process.argv.slice(2).map(Number);
process.stdout.write(JSON.stringify({ generates: mayGenerate(), ...runCampaign(seed, rounds) }));
