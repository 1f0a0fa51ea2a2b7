// A plugin library that says of itself what it was compiled with, and registers nothing.
char const* memvp_plugin_info(void)
{
    return SAID;
}
