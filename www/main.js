/** Wiring only: each panel does its own part. */

import { BiseError } from "./pkg/index.js";
import { ChatPanel } from "./panels/chat.js";
import { byId } from "./panels/dom.js";
import { MessagePanel } from "./panels/message.js";
import { ModelsPanel } from "./panels/models.js";
import { SamplingPanel } from "./panels/sampling.js";
import { StatusPanel } from "./panels/status.js";

/** @type {import("./pkg/index.js").Engine | null} */
let engine = null;

const message = new MessagePanel();
const chat = new ChatPanel({
  status: new StatusPanel(),
  sampling: new SamplingPanel(),
  message,
  lost: () => models.unload(),
  reload: () => models.reload(),
});

const models = new ModelsPanel({
  onUnload: async () => {
    message.clear();
    const old = engine;
    engine = null;
    await chat.attach(null, "");
    await old?.dispose();
  },
  onLoaded: (loaded, name) => {
    engine = loaded;
    void chat.attach(loaded, name);
  },
  onFailed: (error, retry) => {
    const again = { label: "Try again", run: retry };
    const other = { label: "Choose another model", run: () => models.openPanel() };
    const hopeless = error instanceof BiseError && error.code === "no-webgpu";
    message.error(error, hopeless ? [again] : [again, other]);
  },
});

if (!matchMedia("(max-width: 52rem)").matches) byId("models-panel", HTMLDetailsElement).open = true;
models.loadDefault();
