"""What ranks say to each other: process group, collectives, control frames."""
