"""Works out a study: settings, groups, bases, and specifications with their ids."""
