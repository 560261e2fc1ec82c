"""How pictures show each model: its colour, its line and what it is called."""

# Okabe and Ito's palette, told apart by colour-blind readers.
COLOURS = {"zero_shot": "#999999", "global": "#0072B2", "global_at_sites": "#56B4E9", "personalized": "#D55E00"}
MARKS = {  # lines are told apart without their colours, too
    "zero_shot": {"linestyle": "--", "marker": "."},
    "global": {"linestyle": "-", "marker": "o"},
    "global_at_sites": {"linestyle": ":", "marker": "s"},
    "personalized": {"linestyle": "-.", "marker": "^"},
}
TITLES = {
    "zero_shot": "zero-shot",
    "global": "global model",
    "global_at_sites": "global, at sites",
    "personalized": "personalized, at sites",
}
