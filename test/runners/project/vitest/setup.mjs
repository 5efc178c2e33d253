import { fake } from "./fake.mjs";

fake();
