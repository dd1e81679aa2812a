"""Train exits: data, objectives, closed forms, gates, and the Trainer that joins them."""
