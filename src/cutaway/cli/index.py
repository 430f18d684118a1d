"""Every command and where it lives. A command's module is loaded only when it is called.

The names, and the second names of the management forms (`container ls` for `ps`), are docker's.
"""

# name: (module, the Command in it, summary)
COMMANDS = {
    "attach": (
        "attach",
        "ATTACH",
        "Attach local standard input, output, and error streams to a running container",
    ),
    "commit": ("commit", "COMMIT", "Create a new image from a container's changes"),
    "cp": ("copying", "COPY", "Copy files/folders between a container and the local filesystem"),
    "create": ("creation", "CREATE", "Create a new container"),
    "daemon": ("daemon", "DAEMON", "Start, stop and look after Cutaway's daemons"),
    "diff": (
        "containers",
        "DIFF",
        "Inspect changes to files or directories on a container's filesystem",
    ),
    "events": ("events", "EVENTS", "Get real time events from the server"),
    "exec": ("execute", "EXEC", "Run a command in a running container"),
    "export": ("transfer", "EXPORT", "Export a container's filesystem as a tar archive"),
    "history": ("history", "HISTORY", "Show the history of an image"),
    "images": ("images", "IMAGES", "List images"),
    "import": (
        "transfer",
        "IMPORT",
        "Import the contents from a tarball to create a filesystem image",
    ),
    "info": ("info", "INFO", "Display system-wide information"),
    "inspect": ("inspect", "INSPECT", "Return low-level information on Docker objects"),
    "kill": ("lifecycle", "KILL", "Kill one or more running containers"),
    "load": ("transfer", "LOAD", "Load an image from a tar archive or STDIN"),
    "login": ("login", "LOGIN", "Log in to a Docker registry"),
    "logout": ("login", "LOGOUT", "Log out from a Docker registry"),
    "logs": ("logs", "LOGS", "Fetch the logs of a container"),
    "pause": ("lifecycle", "PAUSE", "Pause all processes within one or more containers"),
    "port": ("containers", "PORT", "List port mappings or a specific mapping for the container"),
    "ps": ("ps", "PS", "List containers"),
    "pull": ("pull", "PULL", "Pull an image or a repository from a registry"),
    "push": ("push", "PUSH", "Push an image or a repository to a registry"),
    "rename": ("containers", "RENAME", "Rename a container"),
    "restart": ("lifecycle", "RESTART", "Restart one or more containers"),
    "rm": ("lifecycle", "RM", "Remove one or more containers"),
    "rmi": ("images", "RMI", "Remove one or more images"),
    "run": ("run", "RUN", "Run a command in a new container"),
    "save": (
        "transfer",
        "SAVE",
        "Save one or more images to a tar archive (streamed to STDOUT by default)",
    ),
    "search": ("search", "SEARCH", "Search the Docker Hub for images"),
    "start": ("start", "START", "Start one or more stopped containers"),
    "stop": ("lifecycle", "STOP", "Stop one or more running containers"),
    "tag": ("images", "TAG", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE"),
    "top": ("containers", "TOP", "Display the running processes of a container"),
    "trace": ("trace", "TRACE", "Show the way a container's start took through all parts"),
    "unpause": ("lifecycle", "UNPAUSE", "Unpause all processes within one or more containers"),
    "version": ("version", "VERSION", "Show the version information of all parts"),
    "wait": ("lifecycle", "WAIT", "Block until one or more containers stop, then print their exit codes"),
}

_CONTAINER = (
    "attach commit cp create diff exec export inspect kill logs pause port rename restart rm run start stop "
    "top unpause wait"
)

# group: name in the group -> command
GROUPS = {
    "container": {name: name for name in _CONTAINER.split()}
    | {
        "ls": "ps",
        "list": "ps",
        "ps": "ps",
        "remove": "rm",
        "inspect": "container inspect",
        "prune": "container prune",
    },
    "image": {
        "history": "history",
        "import": "import",
        "inspect": "image inspect",
        "list": "images",
        "load": "load",
        "ls": "images",
        "prune": "image prune",
        "pull": "pull",
        "push": "push",
        "remove": "rmi",
        "rm": "rmi",
        "save": "save",
        "tag": "tag",
    },
    "system": {"df": "system df", "events": "events", "info": "info", "prune": "system prune"},
    "volume": {"prune": "volume prune"},
}

# Commands that are only to be had in a group.
GROUPED = {
    "container inspect": ("inspect", "CONTAINER_INSPECT", "Show all details of containers"),
    "container prune": ("prune", "CONTAINERS", "Remove all stopped containers"),
    "image inspect": ("inspect", "IMAGE_INSPECT", "Show all details of images"),
    "image prune": ("prune", "IMAGES", "Remove unused images"),
    "system df": ("disk_usage", "DISK_USAGE", "Show docker disk usage"),
    "system prune": ("prune", "SYSTEM", "Remove unused data"),
    "volume prune": ("prune", "VOLUMES_COMMAND", "Remove all unused local volumes"),
}

GROUP_SUMMARIES = {
    "container": "Manage containers",
    "image": "Manage images",
    "system": "Manage the daemon",
    "volume": "Manage volumes",
}
