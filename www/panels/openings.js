/** What the page proposes to begin with, per model. */

/** @typedef {{ title: string, text: string, openings: string[] }} Welcome */

/** @type {Record<string, Welcome>} */
const EMBEDDED = {
  tale: {
    title: "Begin a fairy tale",
    text: "Write an opening sentence, and the model goes on from there. It is tiny, learned from old fairy books, and has never heard of a plot.",
    openings: [
      "There was once a king who had three sons.",
      "In the middle of the forest stood a little house, and in it lived an old woman and a cat.",
      "A poor fisherman caught a golden fish, and the fish began to speak.",
    ],
  },
  case: {
    title: "Open a case",
    text: "Write an opening sentence, and the model goes on from there. It is tiny, learned from old detective stories, and never finds the culprit.",
    openings: [
      "It was a cold morning in January when Holmes woke me with a telegram in his hand.",
      "The study was locked from the inside, and the old colonel lay dead beside his desk.",
      "A young lady in black came to our rooms in Baker Street and would not give her name.",
    ],
  },
  "tale × case": {
    title: "Begin a tale, or a case",
    text: "Two tiny models in one: move the slider from fairy tales to detective stories, and the story goes on with the new blend at once.",
    openings: [
      "In the middle of the night there came a knock at the door.",
      "The old man opened the door and",
      "There was once a king who had three sons.",
    ],
  },
};

/**
 * @param {string} model
 * @returns {Welcome}
 */
export function welcome(model) {
  return EMBEDDED[model] ?? {
    title: `${model} is ready`,
    text: "It runs on your graphics card. Ask it anything; nothing you write leaves this tab.",
    openings: [
      "Explain how a fridge makes cold out of electricity.",
      "Write a short letter from the north wind to the sun.",
      "Give me three ideas for a rainy Sunday with two children.",
    ],
  };
}
